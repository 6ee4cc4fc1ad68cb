"""How an update travels up: a report (example count, metrics, coded update), sealed or in the clear.

`Sealed` encrypts the report to the server and signs it as this device. `Clear` leaves it readable for whoever
runs the transport: the simulator, where nothing travels, and Flower's own runtime, which is trusted then.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from fedlite.crypto.identity import Identity, PublicIdentity
from fedlite.crypto.seal import Context, Opened, open_sealed, seal
from fedlite.errors import UpdateError
from fedlite.types import Metrics

KIND_UPDATE = 1
_HEAD = struct.Struct(">4sIH")  # magic, example count, bytes of metrics
_MAGIC = b"FLR1"
_MAX_METRICS_BYTES = 4096
_METRIC_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
FRESH_ROUNDS = 3  # how long what a client owes is worth sending: later, the model has gone elsewhere
REPORT_OVERHEAD_BYTES = _HEAD.size + _MAX_METRICS_BYTES


@dataclass(frozen=True)
class Report:
    """What a client says about one round. `payload` is its coded update; `num_examples` is 1 … 2³²−1."""

    num_examples: int
    metrics: Metrics
    payload: bytes


def pack(report: Report) -> bytes:
    """The report as bytes; metrics are rounded to six digits, for they are for people."""
    metrics = json.dumps(rounded(report.metrics), separators=(",", ":")).encode()
    return _HEAD.pack(_MAGIC, report.num_examples, len(metrics)) + metrics + report.payload


def rounded(metrics: Metrics) -> dict[str, float]:
    """Metrics as a report carries them: whole numbers as they are, of others six digits."""
    return {
        name: float(value) if float(value).is_integer() else float(f"{value:.6g}")
        for name, value in metrics.items()
    }


def clear_size(metrics: Metrics, payload_bytes: int) -> int:
    """Bytes of what `Clear` sends for a report with these metrics, rounded, and a payload so long."""
    return Clear.OVERHEAD + _HEAD.size + len(json.dumps(metrics, separators=(",", ":"))) + payload_bytes


def unpack(body: bytes, *, max_examples: int) -> Report:
    """The report, checked. UpdateError unless 1 ≤ example count ≤ max_examples, metrics finite."""
    if len(body) < _HEAD.size:
        raise UpdateError(f"report holds {len(body)} bytes, at least {_HEAD.size} wanted")
    magic, num_examples, metric_bytes = _HEAD.unpack_from(body)
    if magic != _MAGIC or metric_bytes > min(_MAX_METRICS_BYTES, len(body) - _HEAD.size):
        raise UpdateError("report does not begin as one")
    if not 1 <= num_examples <= max_examples:
        raise UpdateError(f"example count is {num_examples}, 1 to {max_examples} believed")
    middle = _HEAD.size + metric_bytes
    return Report(num_examples, _metrics(body[_HEAD.size : middle]), body[middle:])


def _metrics(text: bytes) -> dict[str, float]:
    try:
        metrics = json.loads(text, parse_int=float)  # an int too long for a float becomes infinite
    except (ValueError, RecursionError):
        raise UpdateError("report's metrics are not JSON") from None
    if not isinstance(metrics, dict) or len(metrics) > 32:
        raise UpdateError("report's metrics are not a small table")
    for name, value in metrics.items():
        if not _METRIC_NAME.fullmatch(name):
            raise UpdateError(
                f"report's metric {name[:64]!r} is not named in lower case, a-z0-9_, 64 at most"
            )
        if type(value) is not float or not math.isfinite(value):
            raise UpdateError(f"report's metric {name!r} is not a finite number")
    return metrics


class Sender(Protocol):
    """A device's end of the uplink."""

    def send(self, body: bytes, context: Context, seq: int) -> bytes:
        """What leaves the device. `seq` rises with every report."""


class Receiver(Protocol):
    """The server's end of the uplink."""

    def open(self, envelope: bytes, context: Context, client_id: str, max_bytes: int) -> Opened:
        """The report's bytes and who sent it; PeerError when that is not `client_id` or anything is off."""


@dataclass(frozen=True)
class Sealed:
    """The device seals to the server's key and signs as itself."""

    identity: Identity
    server: PublicIdentity

    def send(self, body: bytes, context: Context, seq: int) -> bytes:
        """An envelope of 250 bytes more than the body."""
        return seal(self.identity, self.server, body, context, seq)


@dataclass(frozen=True)
class Unsealer:
    """The server opens envelopes of the devices on its roster."""

    identity: Identity
    find: Callable[[bytes], PublicIdentity | None]

    def open(self, envelope: bytes, context: Context, client_id: str, max_bytes: int) -> Opened:
        """Only what `client_id` itself signed, for this context."""

        def find(key_id: bytes) -> PublicIdentity | None:
            return self.find(key_id) if key_id.hex() == client_id else None

        return open_sealed(self.identity, envelope, context, find_sender=find, max_payload_bytes=max_bytes)


@dataclass(frozen=True)
class Clear:
    """No encryption: both ends."""

    OVERHEAD: ClassVar[int] = 8

    def send(self, body: bytes, context: Context, seq: int) -> bytes:
        """The sequence number, then the report as it is."""
        return seq.to_bytes(self.OVERHEAD, "big") + body

    def open(self, envelope: bytes, context: Context, client_id: str, max_bytes: int) -> Opened:
        """The report as it came; who sent it is what the transport says."""
        if not self.OVERHEAD <= len(envelope) <= max_bytes + self.OVERHEAD:
            raise UpdateError(
                f"report holds {len(envelope)} bytes, at most {max_bytes + self.OVERHEAD} wanted"
            )
        seq = int.from_bytes(envelope[: self.OVERHEAD], "big")
        return Opened(
            payload=envelope[self.OVERHEAD :],
            sender=_NOBODY,
            seq=seq,
            digest=hashlib.sha256(envelope).digest(),
        )


_NOBODY = PublicIdentity(signing_key=bytes(32), sealing_key=bytes(32))
