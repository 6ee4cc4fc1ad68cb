"""Update payload v1: filters choose, a serializer writes, compressors squeeze; docs/format.md has the bytes.

`decode` accepts exactly what `encode` writes for the same model and masks. Every size is known from the model
before a byte is taken on the payload's word.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from fedlite.compress.float32 import Float32
from fedlite.compress.int8 import Int8
from fedlite.compress.layout import Layout, gather, layout_of, scatter
from fedlite.compress.zstd import Zstd
from fedlite.errors import CodecError, SettingsError, UpdateError
from fedlite.tensors import add, apply_masks, check_like, subtract, zeros_like
from fedlite.types import Array, Masks, Params, Update

MAGIC = b"FLU1"
STAGES = 4  # bytes: the serializer, then the compressors, then zeros
HEADER = struct.Struct(f"<4s{STAGES}s8s")
CHECK = struct.Struct("<I")
OVERHEAD = HEADER.size + CHECK.size


class Filter(Protocol):
    """Chooses what is worth sending: the other weights become 0. Leaves no trace in the payload."""

    def apply(self, weights: Array, generator: np.random.Generator | None) -> Array:
        """All live weights, flat, in; the same with zeros, out."""


class Serializer(Protocol):
    """Values ↔ a body whose size the layout alone tells. `stage` is its byte in the header."""

    @property
    def stage(self) -> int: ...  # noqa: D102

    def size(self, layout: Layout) -> int: ...  # noqa: D102

    def dump(  # noqa: D102
        self, weights: Array, statistics: Array, layout: Layout, generator: np.random.Generator | None
    ) -> bytes: ...

    def load(self, body: bytes, layout: Layout) -> tuple[Array, Array]: ...  # noqa: D102


class Compressor(Protocol):
    """Bytes ↔ fewer bytes, without loss. `stage` is its byte in the header."""

    @property
    def stage(self) -> int: ...  # noqa: D102

    def bound(self, size: int) -> int: ...  # noqa: D102

    def compress(self, data: bytes) -> bytes: ...  # noqa: D102

    def decompress(self, data: bytes, limit: int) -> bytes: ...  # noqa: D102


@dataclass(frozen=True)
class Codec:
    """An update ↔ bytes. Three slots, so that a wrong order cannot be written."""

    filters: tuple[Filter, ...] = ()
    serializer: Serializer = Int8()  # noqa: RUF009  (frozen)
    compressors: tuple[Compressor, ...] = (Zstd(3),)

    def __post_init__(self) -> None:
        if 1 + len(self.compressors) > STAGES:
            raise SettingsError(f"{len(self.compressors)} compressors; at most {STAGES - 1} fit the header")

    @property
    def stages(self) -> bytes:
        """The serializer and compressors as the payload's header names them."""
        return bytes([self.serializer.stage, *(c.stage for c in self.compressors)]).ljust(STAGES, b"\0")

    @property
    def lossless(self) -> bool:
        """Whether decode gives back what encode was given, to the bit, but for pruned coordinates."""
        return not self.filters and isinstance(self.serializer, Float32)

    def encode(
        self, update: Update, *, masks: Masks | None = None, generator: np.random.Generator | None = None
    ) -> bytes:
        """The payload of an update (or of a whole model). What pruned coordinates hold does not travel.

        Raises UpdateError for values that are not float32 or not finite, SettingsError for masks that do not
        fit. The same update gives the same bytes; a stochastic serializer needs a generator.
        """
        _check_values(update)
        masks = masks or {}
        layout = layout_of(update, masks)
        weights, statistics = gather(update, masks)
        for chosen in self.filters:
            weights = chosen.apply(weights, generator)
        body = self.serializer.dump(weights, statistics, layout, generator)
        for compressor in self.compressors:
            body = compressor.compress(body)
        payload = HEADER.pack(MAGIC, self.stages, layout.binding) + body
        return payload + CHECK.pack(zlib.crc32(payload))

    def decode(self, payload: bytes, like: Params, *, masks: Masks | None = None) -> dict[str, Array]:
        """The update in a payload, shaped like the model; pruned coordinates are exactly 0.

        Raises CodecError unless `encode` wrote the payload for a model of these names and shapes under these
        masks, and SettingsError for masks that do not fit.
        """
        masks = masks or {}
        layout = layout_of(like, masks)
        body = self._open(payload, layout)
        size = self.serializer.size(layout)
        limits = self._bounds(size)[:-1]
        for compressor, limit in zip(reversed(self.compressors), reversed(limits), strict=True):
            body = compressor.decompress(body, limit)
        if len(body) != size:
            raise CodecError(f"payload holds {len(body)} bytes of values, {size} expected")
        weights, statistics = self.serializer.load(body, layout)
        return scatter(weights, statistics, like, masks)

    def limit_bytes(self, like: Params, *, masks: Masks | None = None) -> int:
        """The most bytes a payload for this model can have: what a door may refuse before reading."""
        return OVERHEAD + self._bounds(self.serializer.size(layout_of(like, masks or {})))[-1]

    def _bounds(self, size: int) -> list[int]:
        """The largest size of the body before the first compressor, after it, after the second, …"""
        bounds = [size]
        for compressor in self.compressors:
            bounds.append(compressor.bound(bounds[-1]))
        return bounds

    def _open(self, payload: bytes, layout: Layout) -> bytes:
        """The body, after size, magic, stages, binding and check value agree."""
        limit = OVERHEAD + self._bounds(self.serializer.size(layout))[-1]
        if not OVERHEAD <= len(payload) <= limit:
            raise CodecError(f"payload has {len(payload)} bytes, {OVERHEAD} to {limit} expected")
        magic, stages, binding = HEADER.unpack_from(payload)
        if magic != MAGIC:
            raise CodecError(f"payload begins with {magic.hex()}, {MAGIC.hex()} ({MAGIC.decode()}) expected")
        if stages != self.stages:
            raise CodecError(f"payload was written by codec {stages.hex()}, {self.stages.hex()} expected")
        if binding != layout.binding:
            raise CodecError(
                f"payload is for model and masks {binding.hex()}, {layout.binding.hex()} expected"
            )
        written, actual = CHECK.unpack(payload[-CHECK.size :])[0], zlib.crc32(payload[: -CHECK.size])
        if written != actual:
            raise CodecError(f"payload is damaged: check value {written:08x}, computed {actual:08x}")
        return payload[HEADER.size : -CHECK.size]


def _check_values(update: Update) -> None:
    for name, value in update.items():
        if value.dtype != np.float32:
            raise UpdateError(f"update {name!r} is {value.dtype}, float32 expected")
        if not np.isfinite(value).all():
            raise UpdateError(f"update {name!r} holds NaN or infinity")


def encode_with_feedback(
    codec: Codec,
    update: Update,
    residual: Update | None,
    *,
    masks: Masks | None = None,
    generator: np.random.Generator | None = None,
) -> tuple[bytes, dict[str, Array]]:
    """(payload, new residual): what a lossy codec left out of one update is added to the next.

    `residual` is what the last call returned, None the first time. A weight pruned since then takes its
    residual with it. Raises as `Codec.encode`, and UpdateError if the residual is of another model.
    (Seide 2014, §3; Karimireddy 2019, Alg. 2: p = update + residual, residual' = p − decode(payload).)
    """
    if residual is not None:
        check_like(residual, update, "residual")
        with np.errstate(over="ignore"):  # encode refuses an infinite sum with a typed error
            update = add(update, residual)
    payload = codec.encode(update, masks=masks, generator=generator)
    if codec.lossless:
        return payload, zeros_like(update)
    return payload, subtract(apply_masks(update, masks or {}), codec.decode(payload, update, masks=masks))


PRESETS: Mapping[str, Codec] = MappingProxyType(
    {
        "int8": Codec(compressors=(Zstd(1),)),
        "int8-tensor": Codec(serializer=Int8(per_channel=False), compressors=(Zstd(1),)),
        "float32": Codec(serializer=Float32()),
        "plain": Codec(serializer=Float32(planes=False), compressors=()),
    }
)


def codec_by_name(name: str) -> Codec:
    """The preset of this name; SettingsError, listing them, if there is none."""
    if name not in PRESETS:
        raise SettingsError(f"no codec {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
