"""Update payload v2: filters choose, a serializer writes, compressors squeeze; docs/format.md has the bytes.

`decode` accepts what `encode` writes for the same model and masks, and nothing altered. Every size is known from the
model before a byte is taken on the payload's word. `fedlite.compress.presets` has codecs by name.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fedlite.compress.eden import Eden
from fedlite.compress.float32 import Float32
from fedlite.compress.int8 import Int8
from fedlite.compress.layout import Layout, gather, layout_of, scatter
from fedlite.compress.planes import Plane, Planes, size_of
from fedlite.compress.randomk import RandomK
from fedlite.compress.sign import Sign
from fedlite.compress.slots import Buffer, Chance, Compressor, Filter, Memory, Serializer
from fedlite.compress.zstd import Zstd
from fedlite.errors import CodecError, SettingsError, UpdateError
from fedlite.tensors import add, apply_masks, check_like, subtract, zeros_like
from fedlite.types import Array, Masks, Params, Update

MAGIC = b"FLU2"
HEADER = struct.Struct("<4s4s8s")  # magic, codec, binding
CHECK = struct.Struct("<I")
OVERHEAD = HEADER.size + CHECK.size


@dataclass(frozen=True)
class _Body:
    """A body before its compressors, and the way back to weights."""

    data: bytes
    notes: tuple[bytes, ...]
    layouts: tuple[Layout, ...]  # before each filter, and behind the last
    memory: Memory


@dataclass(frozen=True)
class Codec:
    """An update ↔ bytes. Three slots, so that a wrong order cannot be written."""

    filters: tuple[Filter, ...] = ()
    serializer: Serializer = field(default_factory=Int8)
    compressors: tuple[Compressor, ...] = (Zstd(3),)

    def __post_init__(self) -> None:
        """SettingsError for parts that do not go together."""
        if len({type(chosen) for chosen in self.filters}) < len(self.filters):
            raise SettingsError("a codec has each kind of filter once: they would remember by the same names")
        if isinstance(self.serializer, Sign | Eden) and not all(chosen.key for chosen in self.filters):
            raise SettingsError(
                f"{self.serializer.key} reads no zero as zero: what a filter leaves out would come back as noise, "
                "and more of it in every round",
                remedy="take another serializer behind topk or threshold, as int8 or step",
            )
        for compressor in self.compressors[1:]:
            if compressor.looks_inside:
                raise SettingsError(
                    f"{compressor.key} codes a serializer's own values: it is the first compressor"
                )

    @cached_property
    def key(self) -> str:
        """What a decoder must know: the keys of filters, serializer and compressors, in order, joined by +."""
        parts: list[Filter | Serializer | Compressor] = [*self.filters, self.serializer, *self.compressors]
        keys = [part.key for part in parts]
        return "+".join(key for key in keys if key)

    @cached_property
    def id(self) -> bytes:
        """The codec in a payload's header: the first 4 bytes of SHA-256 of `key`."""
        return hashlib.sha256(self.key.encode()).digest()[:4]

    @property
    def lossless(self) -> bool:
        """Whether decode gives back what encode was given, to the bit, but for pruned coordinates."""
        return not self.filters and isinstance(self.serializer, Float32)

    @property
    def owes(self) -> bool:
        """Whether what it leaves out is sent with the next update: not where it leaves out nothing in the mean."""
        scaled = any(isinstance(chosen, RandomK) and chosen.unbiased for chosen in self.filters)
        return not (self.lossless or scaled)

    def memory(self, like: Params) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what filters keep between rounds, beside the residual; under masks, not all of it."""
        found: dict[str, tuple[int, ...]] = {}
        for chosen, layout in zip(self.filters, self._layouts(layout_of(like, {})), strict=False):
            found |= chosen.memory(layout)
        return found

    def encode(
        self, update: Update, *, masks: Masks | None = None, generator: np.random.Generator | None = None
    ) -> bytes:
        """The payload of an update (or of a whole model). What pruned coordinates hold does not travel.

        Raises UpdateError for values that are not float32 or not finite, SettingsError for masks that do not
        fit. The same update gives the same bytes; a stochastic serializer needs a generator.
        """
        return self._pack(self._body(update, masks or {}, generator, {}))

    def encode_and_read(
        self, update: Update, *, masks: Masks | None = None, generator: np.random.Generator | None = None
    ) -> tuple[bytes, dict[str, Array]]:
        """(payload, what `decode` reads in it), without taking the payload apart. Raises as `encode`."""
        masks = masks or {}
        body = self._body(update, masks, generator, {})
        return self._pack(body), self._read(body, update, masks)

    def decode(self, payload: bytes, like: Params, *, masks: Masks | None = None) -> dict[str, Array]:
        """The update in a payload, shaped like the model; pruned coordinates are exactly 0.

        Raises CodecError unless `encode` wrote the payload for a model of these names and shapes under these
        masks, and SettingsError for masks that do not fit.
        """
        masks = masks or {}
        layouts = self._layouts(layout_of(like, masks))
        planes = self._stages(layouts[-1])
        data: Buffer = self._open(payload, layouts[0], OVERHEAD + _limit(self.compressors, planes))
        for compressor, each in zip(reversed(self.compressors), reversed(planes[:-1]), strict=True):
            data = compressor.decompress(bytes(data), each)
        if len(data) != size_of(planes[0]):
            raise CodecError(f"payload holds {len(data)} bytes of values, {size_of(planes[0])} expected")
        return scatter(*self._load(data, layouts), like, masks)

    def limit_bytes(self, like: Params, *, masks: Masks | None = None) -> int:
        """The most bytes a payload for this model can have: what a door may refuse before reading."""
        inner = self._layouts(layout_of(like, masks or {}))[-1]
        return OVERHEAD + _limit(self.compressors, self._stages(inner))

    def _body(self, update: Update, masks: Masks, chance: Chance, memory: Memory) -> _Body:
        """What an update is before the compressors."""
        _check_values(update)
        layouts = self._layouts(layout_of(update, masks))
        weights, statistics = gather(update, masks)
        notes, kept = [], dict[str, Array]()
        for chosen, layout in zip(self.filters, layouts, strict=False):
            weights, note, after = chosen.apply(weights, layout, chance, memory)
            notes.append(note)
            kept |= after
        data = b"".join([*notes, self.serializer.dump(weights, statistics, layouts[-1], chance)])
        return _Body(data, tuple(notes), layouts, kept)

    def squeeze(self, body: bytes, inner: Layout) -> bytes:
        """A body of this layout through the compressors."""
        for compressor, planes in zip(self.compressors, self._stages(inner), strict=False):
            body = compressor.compress(body, planes)
        return body

    def _pack(self, body: _Body) -> bytes:
        data = self.squeeze(body.data, body.layouts[-1])
        payload = HEADER.pack(MAGIC, self.id, body.layouts[0].binding) + data
        return payload + CHECK.pack(zlib.crc32(payload))

    def _read(self, body: _Body, like: Params, masks: Masks) -> dict[str, Array]:
        """The update in a body, shaped like the model."""
        return scatter(*self._load(body.data, body.layouts), like, masks)

    def _load(self, data: Buffer, layouts: tuple[Layout, ...]) -> tuple[Array, Array]:
        """(live weights, statistics) of a body."""
        notes, place = list[bytes](), 0
        for chosen in self.filters:
            notes.append(bytes(data[place : place + chosen.note_size]))
            place += chosen.note_size
        weights, statistics = self.serializer.load(memoryview(data)[place:], layouts[-1])
        for chosen, layout, note in zip(
            reversed(self.filters), reversed(layouts[:-1]), reversed(notes), strict=True
        ):
            weights = chosen.undo(weights, layout, note)
        return weights, statistics

    def _layouts(self, layout: Layout) -> tuple[Layout, ...]:
        """The layout before each filter, and behind the last."""
        layouts = [layout]
        for chosen in self.filters:
            layouts.append(chosen.inner(layouts[-1]))
        return tuple(layouts)

    def _stages(self, inner: Layout) -> list[Planes]:
        """The planes before each compressor, and behind the last."""
        notes = sum(chosen.note_size for chosen in self.filters)
        planes: Planes = [*([Plane(notes)] if notes else []), *self.serializer.planes(inner)]
        stages = [planes]
        for compressor in self.compressors:
            stages.append([Plane(compressor.bound(stages[-1]))])
        return stages

    def _open(self, payload: bytes, layout: Layout, limit: int) -> bytes:
        """The body, after size, magic, codec, binding and check value agree."""
        if not OVERHEAD <= len(payload) <= limit:
            raise CodecError(f"payload has {len(payload)} bytes, {OVERHEAD} to {limit} expected")
        magic, codec, binding = HEADER.unpack_from(payload)
        if magic != MAGIC:
            raise CodecError(f"payload begins with {magic.hex()}, {MAGIC.hex()} ({MAGIC.decode()}) expected")
        if codec != self.id:
            raise CodecError(
                f"payload was written by codec {codec.hex()}, {self.id.hex()} ({self.key}) expected"
            )
        if binding != layout.binding:
            raise CodecError(
                f"payload is for model and masks {binding.hex()}, {layout.binding.hex()} expected"
            )
        written, actual = CHECK.unpack(payload[-CHECK.size :])[0], zlib.crc32(payload[: -CHECK.size])
        if written != actual:
            raise CodecError(f"payload is damaged: check value {written:08x}, computed {actual:08x}")
        return payload[HEADER.size : -CHECK.size]


def _limit(compressors: tuple[Compressor, ...], stages: list[Planes]) -> int:
    """The most bytes of a body. A plane behind a compressor is as large as it can become."""
    return size_of(stages[len(compressors)])


def _check_values(update: Update) -> None:
    for name, value in update.items():
        if value.dtype != np.float32:
            raise UpdateError(f"update {name!r} is {value.dtype}, float32 expected")
        if not np.isfinite(value).all():
            raise UpdateError(f"update {name!r} holds NaN or infinity")


def memory_of(residual: Update) -> dict[str, Array]:
    """What filters keep, of what `encode_with_feedback` returned: it is never added to anything."""
    return {name: value for name, value in residual.items() if name.startswith("~")}


def owing(update: Update, residual: Update | None) -> tuple[Update, dict[str, Array]]:
    """(update and what is owed in one, what filters keep) of a residual as `encode_with_feedback` returns it.

    UpdateError if that is of another model.
    """
    if residual is None:
        return update, {}
    memory = memory_of(residual)
    residual = {name: value for name, value in residual.items() if name not in memory}
    check_like(residual, update, "residual")
    with np.errstate(over="ignore"):  # encode refuses an infinite sum with a typed error
        return add(update, residual), memory


def payload_size(
    codec: Codec,
    update: Update,
    memory: Memory,
    *,
    masks: Masks | None = None,
    generator: np.random.Generator | None = None,
) -> int:
    """Bytes of the payload that `encode_with_feedback` makes of these, as `owing` returns them; raises as that does."""
    body = codec._body(update, masks or {}, generator, memory)
    return OVERHEAD + len(codec.squeeze(body.data, body.layouts[-1]))


def encode_with_feedback(
    codec: Codec,
    update: Update,
    residual: Update | None,
    *,
    masks: Masks | None = None,
    generator: np.random.Generator | None = None,
) -> tuple[bytes, dict[str, Array]]:
    """(payload, new residual): what a lossy codec left out of one update is added to the next.

    `residual` is what the last call returned, None the first time; zeros, if `codec` owes nothing. Where a filter keeps
    something, it holds that too, under names that begin with "~". A weight pruned since then takes its residual with
    it. Raises as `Codec.encode`, and UpdateError if the residual is of another model.
    (Seide 2014, §3; Karimireddy 2019, Alg. 2: p = update + residual, residual' = p − decode(payload).)
    """
    masks = masks or {}
    update, memory = owing(update, residual)
    body = codec._body(update, masks, generator, memory)
    payload = codec._pack(body)
    if codec.lossless:
        return payload, zeros_like(update)
    known = codec.memory(update) if body.memory else {}
    kept = {name: value for name, value in body.memory.items() if known.get(name) == value.shape}
    if not codec.owes:
        return payload, zeros_like(update) | kept
    return payload, subtract(apply_masks(update, masks), codec._read(body, update, masks)) | kept
