"""How a model version travels down: the steps from the version a client holds, or the whole model.

Clients hold the *reference*: the model as decoded from the steps sent so far. A step is the coded difference
between the server's exact model and the reference, so what one step's coding loses, the next one carries: the
server's residual is always (exact − reference), and every client at one version holds the same bytes.

A client that is new makes version 0 itself, where it can: from the model's description and the run's seed, at no
cost. One that was away needs many steps; those of an exact codec (`fedlite.compress.step`) have sums without rounding,
so they are added up and coded as one: weights that moved in several steps are named once.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.codec import OVERHEAD, Codec
from fedlite.compress.layout import Layout, gather, layout_of, scatter
from fedlite.compress.mask_change import pack_change, unpack_change
from fedlite.compress.presets import codec_by_name
from fedlite.compress.step import FINER, GRID, TOP, Step
from fedlite.errors import CodecError, OriginError
from fedlite.seeds import generator
from fedlite.tensors import add, apply_masks, check_like, digest, subtract
from fedlite.types import Array, Masks, Params, Update, is_statistic

NOTHING_HELD = -1  # a client's version before it has any
WHOLE_WANTED = -2  # of a client that cannot make version 0 itself

_WHOLE = codec_by_name("float32")
_PART = struct.Struct(
    ">BIIIII"
)  # kind, from and to version, bytes of masks and of the coded difference, check
_CHECKED = _PART.size - 4  # bytes of it before the check value
_ORIGIN, _STEP, _SNAPSHOT = 0, 1, 2


@dataclass(frozen=True)
class Version:
    """A model as clients hold it: `number` rises by one with every round; 0 is the initial model."""

    number: int
    params: Params
    masks: Masks = field(default_factory=dict)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 over parameters and masks: what a client must hold, to the bit, to take part."""
        return digest(self.params, self.masks)


def first(params: Params, masks: Masks, codec: Codec) -> Version:
    """Version 0: the initial model, with its weights on the grid of exact steps, where the codec has them."""
    if is_exact(codec):
        params = {
            name: value if is_statistic(name) else np.rint(value / np.float32(GRID)) * np.float32(GRID)
            for name, value in params.items()
        }
    return Version(0, apply_masks(params, masks), masks)


def origin(version: Version) -> bytes:
    """What brings a client to version 0 that can make the initial model itself: its masks."""
    return _part(_ORIGIN, 0, 0, whole_masks(version), b"")


def advance(held: Version, params: Params, masks: Masks, codec: Codec) -> tuple[bytes, Version]:
    """(step, next version): the step that brings a client from `held` as near to `params` as `codec` can.

    Statistics are sent as they are, not as differences: they are few, and change as a whole. A codec that draws does
    so from the version's own bytes.
    """
    target = apply_masks(params, masks)
    change = subtract(target, apply_masks(held.params, masks))
    change |= {name: value for name, value in target.items() if is_statistic(name)}
    chance = generator(int.from_bytes(held.hash[:7]), "downlink", held.number)
    body, change = codec.encode_and_read(change, masks=masks, generator=chance)
    packed = pack_change(held.masks, masks, params)
    step = _part(_STEP, held.number, held.number + 1, packed, body)
    return step, _moved(held, change, held.number + 1, unpack_change(packed, held.masks, params))


def snapshot(version: Version, packed: bytes | None = None) -> bytes:
    """The whole model, lossless: for a client that is too far behind, or new and cannot make the first one.

    `packed` is `whole_masks` of it, where that is known already.
    """
    packed = whole_masks(version) if packed is None else packed
    return _part(_SNAPSHOT, version.number, version.number, packed, _WHOLE.encode(version.params))


def whole_masks(version: Version) -> bytes:
    """A version's masks, for those who have none."""
    return pack_change({}, version.masks, version.params)


def bundle(steps: Sequence[bytes]) -> bytes:
    """Parts in order, as one payload; nothing at all for a client that is up to date."""
    return b"".join(steps)


def is_exact(codec: Codec) -> bool:
    """Whether sums of its steps are exact, so that some can be sent as one."""
    return isinstance(codec.serializer, Step) and codec.serializer.exact and not codec.filters


@dataclass(frozen=True, eq=False)
class Moves:
    """What a step of an exact codec does: `values` (float32) are added at `places` of the live weights.

    `statistics` are as they are afterwards; `mask_bytes` say how masks change, 0 if none does.
    """

    places: NDArray[np.int32]
    values: Array
    statistics: Array
    mask_bytes: int


def moves_of(step: bytes, target: Version, codec: Codec) -> Moves | None:
    """The moves of a step after which masks are the target's. None for another part; CodecError if damaged."""
    kind, _, _, mask_bytes, body_bytes = _head(step, 0)
    if kind != _STEP:
        return None
    body = step[len(step) - body_bytes :]
    return _moves(codec.decode(body, target.params, masks=target.masks), target.masks, mask_bytes)


def moves_between(held: Version, target: Version, step: bytes) -> Moves | None:
    """The moves of the step of an exact codec from `held` to `target`, where both are at hand: nothing is decoded."""
    kind, base, number, mask_bytes, _ = _head(step, 0)
    if kind != _STEP or (base, number) != (held.number, target.number):
        return None
    statistics = {name: value for name, value in target.params.items() if is_statistic(name)}
    change = subtract(target.params, apply_masks(held.params, target.masks)) | statistics
    return _moves(change, target.masks, mask_bytes)


def _moves(change: Update, masks: Masks, mask_bytes: int) -> Moves:
    weights, statistics = gather(change, masks)
    places = np.flatnonzero(weights)
    return Moves(places.astype(np.int32), weights[places], statistics, mask_bytes)


def merged(steps: Sequence[bytes], moves: Sequence[Moves], target: Version, codec: Codec) -> bytes | None:
    """Consecutive steps, the last of which leads to `target`, as one; only the first may change masks.

    None where their sum is not exact: beyond ±16, or with levels that a step does not have.
    """
    layout = layout_of(target.params, target.masks)
    total = np.zeros(layout.weights, np.float32)
    for each in moves:
        total[each.places] += each.values
    unit = _unit(total, layout)
    if unit is None:
        return None
    change = scatter(total, moves[-1].statistics, target.params, target.masks)
    exact = replace(codec, serializer=Step(exact=True, fixed=unit))
    _, base, _, mask_bytes, _ = _head(steps[0], 0)
    packed = steps[0][_PART.size : _PART.size + mask_bytes]
    return _part(_STEP, base, target.number, packed, exact.encode(change, masks=target.masks))


def _unit(total: Array, layout: Layout) -> float | None:
    """The largest step of which all sums are multiples (small tensors', of an eighth); None if there is none."""
    grid = np.rint(total.astype(np.float64) / GRID).astype(np.int64)
    if not grid.size or np.abs(grid).max() >= 2**24:
        return None
    found, begin = 2**20, 0
    finer = FINER if any(tensor.is_matrix for tensor in layout.tensors) else 1
    for tensor in layout.tensors:
        bits = int(np.bitwise_or.reduce(grid[begin : begin + tensor.live]))
        begin += tensor.live
        if bits:
            found = min(found, (bits & -bits) * (1 if tensor.is_matrix else finer))
    if found < FINER or np.abs(grid).max() * FINER > TOP * found:
        return None
    return found * GRID


def merged_size(mask_bytes: int, body_bytes: int) -> int:
    """Bytes of what `merged` gives: of a first step with these, and a body as coded."""
    return _PART.size + mask_bytes + OVERHEAD + body_bytes


def receive(
    payload: bytes,
    held: Version | None,
    like: Params,
    codec: Codec,
    begin: Callable[[], Params] | None = None,
) -> Version:
    """The version a client holds after this payload; steps that it has made before are passed over.

    `begin` makes the initial model, for a client that holds nothing. CodecError unless the payload leads on from
    `held`, or is a whole model, or is empty; OriginError if it leads on from version 0, which cannot be made.
    """
    offset, made = 0, payload == b""
    while offset < len(payload):
        kind, _, number, mask_bytes, body_bytes = _head(payload, offset)
        end = offset + _PART.size + mask_bytes + body_bytes
        if end > len(payload):
            raise CodecError(f"downlink holds {len(payload)} bytes, {end} announced")
        part = payload[offset:end]
        if kind == _SNAPSHOT:
            held, made = _load(part, like), True
        elif kind == _ORIGIN:
            if held is None:
                held, made = _begin(part, like, codec, begin), True
        elif held is None:
            raise CodecError("downlink begins with a step, but this device holds no model yet")
        elif number > held.number:
            held, made = _apply(held, part, codec), True
        offset = end
    if not made:
        raise CodecError("downlink leads nowhere that this device has not been")
    if held is None:
        raise CodecError("downlink is empty, but this device holds no model yet")
    return held


def _part(kind: int, base: int, number: int, packed: bytes, body: bytes) -> bytes:
    head = _PART.pack(kind, base, number, len(packed), len(body), 0)[:_CHECKED]
    return head + zlib.crc32(packed, zlib.crc32(head)).to_bytes(4) + packed + body


def _head(payload: bytes, offset: int) -> tuple[int, int, int, int, int]:
    if len(payload) - offset < _PART.size:
        raise CodecError(f"downlink ends inside a header at byte {offset}")
    kind, base, number, mask_bytes, body_bytes, check = _PART.unpack_from(payload, offset)
    if kind not in (_ORIGIN, _STEP, _SNAPSHOT):
        raise CodecError(f"downlink part of unknown kind {kind}")
    middle = offset + _PART.size
    found = zlib.crc32(payload[middle : middle + mask_bytes], zlib.crc32(payload[offset : offset + _CHECKED]))
    if found != check:
        raise CodecError(f"downlink part is damaged: check value {check:08x}, computed {found:08x}")
    return kind, base, number, mask_bytes, body_bytes


def _split(part: bytes) -> tuple[int, int, bytes, bytes]:
    """(from version, to version, masks, coded difference)."""
    _, base, number, mask_bytes, _ = _head(part, 0)
    middle = _PART.size + mask_bytes
    return base, number, part[_PART.size : middle], part[middle:]


def _begin(part: bytes, like: Params, codec: Codec, begin: Callable[[], Params] | None) -> Version:
    _, _, packed, body = _split(part)
    if body:
        raise CodecError("downlink begins a model with bytes that nothing reads")
    if begin is None:
        raise OriginError("this device cannot make the initial model itself")
    params = begin()
    check_like(params, like, "initial model")
    return first(params, unpack_change(packed, {}, like), codec)


def _load(part: bytes, like: Params) -> Version:
    _, number, packed, body = _split(part)
    return Version(number, _WHOLE.decode(body, like), unpack_change(packed, {}, like))


def _apply(held: Version, part: bytes, codec: Codec) -> Version:
    base, number, packed, body = _split(part)
    if base != held.number or number <= base:
        raise CodecError(
            f"downlink step leads from version {base} to {number}, this device holds {held.number}"
        )
    masks = unpack_change(packed, held.masks, held.params)
    return _moved(held, codec.decode(body, held.params, masks=masks), number, masks)


def _moved(held: Version, change: Update, number: int, masks: Masks) -> Version:
    """The version after a step; its change has statistics as they are afterwards."""
    params = add(apply_masks(held.params, masks), change)
    return Version(number, params | {n: v for n, v in change.items() if is_statistic(n)}, masks)
