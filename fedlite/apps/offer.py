"""The two messages of a round: the server's offer and the client's answer, as Flower records.

An offer is a manifest (one JSON text per round, the same for every client, signed where there are keys), the
model payload for what this client holds, and the last round in which this client was counted. An answer is
either one report or a word about what the client holds. A payload is one Array of bytes: stype "fedlite.v1".
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

from fedlite.crypto.seal import Context
from fedlite.errors import FrameError, SettingsError
from fedlite.flower import Array, ArrayRecord, ConfigRecord, RecordDict
from fedlite.train_settings import TrainSettings
from fedlite.uplink import KIND_UPDATE

STYPE = "fedlite.v1"
NEVER_COUNTED = -1
_MAX_MANIFEST_BYTES = 65_536


@dataclass(frozen=True)
class Manifest:
    """What a round asks for.

    `model` is a ModelSpec's JSON; `model_hash` (hex) is of the version a client must hold before it trains.
    """

    run: str
    round_num: int
    version: int
    model_hash: str
    model: str
    train: Mapping[str, Any]
    uplink_codec: str
    downlink_codec: str
    seed: int
    origin: str = (
        ""  # how the initial model is made, as fedlite.apps.origin has it; nothing where it is given
    )
    teacher: str = ""  # name of the model whose soft labels the round is taught by, or none
    uplink_budget: int = 0  # most bytes of a sealed report, of devices without a limit of their own; 0: any

    @cached_property
    def text(self) -> bytes:
        """Canonical JSON: what is signed and hashed."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @cached_property
    def settings(self) -> TrainSettings:
        """How to train, checked."""
        return TrainSettings(**self.train)

    @property
    def context(self) -> Context:
        """What a report is bound to: this run, round, model and manifest."""
        return Context(
            kind=KIND_UPDATE,
            run_id=bytes.fromhex(self.run),
            round_num=self.round_num,
            attempt=0,
            model_hash=bytes.fromhex(self.model_hash),
            spec_hash=hashlib.sha256(self.text).digest(),
        )


@dataclass(frozen=True)
class Offer:
    """One client's offer. `counted` is the last round its report was counted in, or NEVER_COUNTED."""

    manifest: Manifest
    signature: bytes
    model: bytes
    counted: int


def write_offer(offer: Offer) -> RecordDict:
    """The offer as records; `model` is passed by reference, not copied."""
    config = ConfigRecord(
        {"manifest": offer.manifest.text, "signature": offer.signature, "counted": offer.counted}
    )
    return RecordDict({"arrays": ArrayRecord({"model": _blob(offer.model)}), "config": config})


def read_offer(content: RecordDict) -> Offer:
    """The offer, checked. FrameError when the message is not one."""
    try:
        config = content["config"]
        text, signature, counted = config["manifest"], config["signature"], config["counted"]
        model = _bytes(content["arrays"]["model"])
    except (KeyError, TypeError) as error:
        raise FrameError(f"the server's message is not a fedlite offer: {error}") from error
    if not (isinstance(text, bytes) and isinstance(signature, bytes) and type(counted) is int):
        raise FrameError("the server's offer holds fields of the wrong type")
    return Offer(_manifest(text), signature, model, counted)


def write_report(envelope: bytes) -> RecordDict:
    """A client's answer: its report."""
    return RecordDict({"arrays": ArrayRecord({"report": _blob(envelope)})})


def write_holds(version: int) -> RecordDict:
    """A client's answer when it cannot start from the payload it got: which version it holds."""
    return RecordDict({"status": ConfigRecord({"holds": version})})


def read_answer(content: RecordDict) -> bytes | int:
    """A report's bytes, or the version the client holds. FrameError when it is neither."""
    if list(content) == ["arrays"] and list(content["arrays"]) == ["report"]:
        return _bytes(content["arrays"]["report"])
    if list(content) == ["status"] and type(held := content["status"].get("holds")) is int:
        return held
    raise FrameError("the client's message is neither a report nor a status")


def _blob(data: bytes) -> Array:
    return Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)


def _bytes(array: object) -> bytes:
    if not isinstance(array, Array) or array.stype != STYPE or array.shape != (len(array.data),):
        raise FrameError(f"the message's payload is not an array of stype {STYPE!r}")
    return array.data


@lru_cache(4)
def _manifest(text: bytes) -> Manifest:
    if len(text) > _MAX_MANIFEST_BYTES:
        raise FrameError(f"manifest holds {len(text)} bytes, at most {_MAX_MANIFEST_BYTES} wanted")
    try:
        manifest = Manifest(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise FrameError(f"manifest is not one this version knows: {error}") from error
    if manifest.text != text:
        raise FrameError("manifest is not in canonical form")
    numbers = (manifest.round_num, manifest.version, manifest.seed, manifest.uplink_budget)
    texts = (
        manifest.model,
        manifest.uplink_codec,
        manifest.downlink_codec,
        manifest.origin,
        manifest.teacher,
    )
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or not all(
        isinstance(t, str) for t in texts
    ):
        raise FrameError("manifest holds fields of the wrong type")
    if not _is_hex(manifest.run, 16) or not _is_hex(manifest.model_hash, 32):
        raise FrameError("manifest's run or model hash is not one")
    try:
        _ = manifest.settings
    except (TypeError, SettingsError) as error:
        raise FrameError(f"manifest asks for training that is none: {error}") from error
    return manifest


def _is_hex(value: object, size: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value) is not None
