"""A device as the client app sees it: its samples, its memory, its keys and its processor."""

import json
import struct
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedlite.compress.prune import pack_masks, unpack_masks
from fedlite.downlink import Version
from fedlite.errors import StateError
from fedlite.types import Array, Params, Update
from fedlite.uplink import Sender


@dataclass(frozen=True)
class Pending:
    """A report that was sent and may or may not have been counted.

    What the device owes the server after it: `if_counted`, the codec's loss; `if_lost`, the round's whole update on
    top of what was owed of codec losses before, `before`, which is of `before_round`. Of updates that were lost only
    the last is owed: older ones were made from models long gone. With each is what the codec's filters remember, under
    names that begin with "~": in `if_lost` as it was before, for the server knows nothing of a report that was lost.
    """

    spec_hash: bytes
    round_num: int
    envelope: bytes
    before: Update
    if_counted: Update
    if_lost: Update
    before_round: int


@dataclass(frozen=True)
class Held:
    """What a device remembers of one run."""

    run: str = ""
    round_num: int = 0
    seq: int = 0
    version: Version | None = None
    pending: Pending | None = None


class Memory(Protocol):
    """Where a device keeps what it holds; `save` returns once it is safe."""

    def load(self) -> Held:
        """The last saved, or an empty one."""

    def save(self, held: Held) -> None:
        """Replace it, whole or not at all."""


class Store(Protocol):
    """Named bytes, written together: fedlite.ledger.shelf.Shelf is one."""

    def get(self, name: str) -> bytes | None:
        """The bytes, or None."""

    def put(self, values: Mapping[str, bytes | None]) -> None:
        """Write them all, or none; None deletes."""


Predict = Callable[[NDArray[np.generic]], NDArray[np.int64]]  # x → labels


class Source(Protocol):
    """Where a device's samples come from."""

    def draw(self, predict: Predict) -> "Drawn":
        """This round's samples; `predict` is the model as received, before it learns from them."""


@dataclass(frozen=True)
class Drawn:
    """Samples to train on, and what was measured while drawing them."""

    x: NDArray[np.generic]
    y: NDArray[np.int64]
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fixed:
    """The same samples every round."""

    x: NDArray[np.generic]
    y: NDArray[np.int64]

    def draw(self, predict: Predict) -> Drawn:
        """All of them."""
        return Drawn(self.x, self.y)


class Teacher(Protocol):
    """A model whose soft labels a device learns from: fedlite.distill has it."""

    @property
    def name(self) -> str:
        """What the server and the device know it by: the same name is the same model, to the bit."""

    def logits(self, x: NDArray[np.generic]) -> Array:
        """Of examples (n, …): (n, classes)."""


@lru_cache(1)
def open_teacher(path: Path | None) -> Teacher | None:
    """The model in that file, read once. SettingsError for a file that is none."""
    if path is None:
        return None
    from fedlite.distill import load_teacher

    return load_teacher(path)


@dataclass(frozen=True)
class Limits:
    """The most a device does on the server's word."""

    max_epochs: int = 100
    max_parameters: int = 20_000_000


@dataclass(frozen=True)
class Device:
    """What the client app needs of a device.

    `verify` raises SealError for an offer the server did not sign. Devices of one process may be given one table of
    `versions`: what one has received, the others need not decode again.
    """

    client_id: str
    source: Source
    memory: Memory
    sender: Sender
    verify: Callable[[bytes, bytes], None]
    compute: str = "cpu"
    limits: Limits = Limits()
    teacher: Teacher | None = None
    uplink_budget: int = 0  # most bytes of a sealed report that its own link bears; 0: what the server says
    folder: Path | None = None  # for what is measured once on this device
    versions: MutableMapping[str, Version] = field(default_factory=WeakValueDictionary)  # by number and hash


@dataclass
class Ram:
    """Memory for a simulated device, as long as the process lives."""

    held: Held = field(default_factory=Held)

    def load(self) -> Held:
        """The last saved."""
        return self.held

    def save(self, held: Held) -> None:
        """Keep a reference."""
        self.held = held


@dataclass(frozen=True)
class Stored:
    """Memory over named bytes: a shelf on disk, or Flower's Context.state."""

    store: Store

    def load(self) -> Held:
        """The last saved, or an empty one when nothing was."""
        head = self.store.get("head")
        if head is None:
            return Held()
        values = json.loads(head)
        version = _load_version(self.store, values["version"])
        pending = None
        if values["pending"] is not None:
            before_round = values.get("before_round", values["pending"])  # earlier releases kept none
            pending = _load_pending(self.store, values["pending"], before_round)
        return Held(values["run"], values["round"], values["seq"], version, pending)

    def save(self, held: Held) -> None:
        """One write of everything that changed."""
        version, pending = held.version, held.pending
        head = {
            "run": held.run,
            "round": held.round_num,
            "seq": held.seq,
            "version": version.number if version else None,
            "pending": pending.round_num if pending else None,
            "before_round": pending.before_round if pending else None,
        }
        values: dict[str, bytes | None] = {"head": json.dumps(head).encode()}
        if version is not None:
            values |= {"params": _dump(version.params), "masks": pack_masks(version.masks)}
        if pending is not None:
            values |= {
                "pending": pending.spec_hash + pending.envelope,
                "before": _dump(pending.before),
                "if_counted": _dump(pending.if_counted),
                "if_lost": _dump(pending.if_lost),
            }
        self.store.put(values)


_COUNT = struct.Struct(">I")


def _dump(arrays: Params) -> bytes:
    """safetensors, with the names in their own order in front (safetensors sorts them)."""
    names = json.dumps(list(arrays)).encode()
    body: bytes = save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    return _COUNT.pack(len(names)) + names + body


def _read(store: Store, name: str) -> dict[str, Array]:
    data = store.get(name)
    if data is None:
        raise StateError(f"this device's memory has lost its {name!r}")
    middle = _COUNT.size + _COUNT.unpack_from(data)[0]
    arrays = load(data[middle:])
    return {name: arrays[name] for name in json.loads(data[_COUNT.size : middle])}


def _load_version(store: Store, number: int | None) -> Version | None:
    if number is None:
        return None
    params = _read(store, "params")
    return Version(number, params, unpack_masks(store.get("masks") or pack_masks({}), params))


def _load_pending(store: Store, round_num: int, before_round: int) -> Pending:
    data = store.get("pending")
    if data is None:
        raise StateError("this device's memory has lost its last report")
    before, if_counted, if_lost = (_read(store, name) for name in ("before", "if_counted", "if_lost"))
    return Pending(data[:32], round_num, data[32:], before, if_counted, if_lost, before_round)
