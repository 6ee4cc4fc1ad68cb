"""How a model version travels down: the steps from the version a client holds, or the whole model.

Clients hold the *reference*: the model as decoded from the steps sent so far. A step is the coded difference
between the server's exact model and the reference, so what one step's coding loses, the next one carries: the
server's residual is always (exact − reference), and every client at one version holds the same bytes.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fedlite.compress.codec import Codec
from fedlite.compress.presets import codec_by_name
from fedlite.compress.prune import pack_masks, unpack_masks
from fedlite.errors import CodecError
from fedlite.tensors import add, apply_masks, digest, subtract
from fedlite.types import Masks, Params

_WHOLE = codec_by_name("float32")
_PART = struct.Struct(">BIII")  # kind, version number, bytes of masks, bytes of the coded difference
_STEP, _SNAPSHOT = 1, 2


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


def advance(held: Version, params: Params, masks: Masks, codec: Codec) -> tuple[bytes, Version]:
    """(step, next version): the step that brings a client from `held` as near to `params` as `codec` can."""
    target = apply_masks(params, masks)
    start = apply_masks(held.params, masks)
    body = codec.encode(subtract(target, start), masks=masks)
    packed = pack_masks(masks)
    step = _PART.pack(_STEP, held.number + 1, len(packed), len(body)) + packed + body
    return step, _apply(held, step, codec)


def snapshot(version: Version) -> bytes:
    """The whole model, lossless: for a client that is new or too far behind."""
    packed, body = pack_masks(version.masks), _WHOLE.encode(version.params)
    return _PART.pack(_SNAPSHOT, version.number, len(packed), len(body)) + packed + body


def bundle(steps: Sequence[bytes]) -> bytes:
    """Steps in order, as one payload; nothing at all for a client that is up to date."""
    return b"".join(steps)


def receive(payload: bytes, held: Version | None, like: Params, codec: Codec) -> Version:
    """The version a client holds after this payload; steps that it has made before are passed over.

    CodecError unless the payload leads on from `held`, or is a whole model, or is empty.
    """
    offset, made = 0, payload == b""
    while offset < len(payload):
        kind, number, mask_bytes, body_bytes = _head(payload, offset)
        end = offset + _PART.size + mask_bytes + body_bytes
        if end > len(payload):
            raise CodecError(f"downlink holds {len(payload)} bytes, {end} announced")
        part = payload[offset:end]
        if kind == _SNAPSHOT:
            held, made = _load(part, like), True
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


def _head(payload: bytes, offset: int) -> tuple[int, int, int, int]:
    if len(payload) - offset < _PART.size:
        raise CodecError(f"downlink ends inside a header at byte {offset}")
    kind, number, mask_bytes, body_bytes = _PART.unpack_from(payload, offset)
    if kind not in (_STEP, _SNAPSHOT):
        raise CodecError(f"downlink part of unknown kind {kind}")
    return kind, number, mask_bytes, body_bytes


def _parts(part: bytes) -> tuple[int, bytes, bytes]:
    _, number, mask_bytes, _ = _head(part, 0)
    middle = _PART.size + mask_bytes
    return number, part[_PART.size : middle], part[middle:]


def _load(part: bytes, like: Params) -> Version:
    number, packed, body = _parts(part)
    return Version(number, _WHOLE.decode(body, like), unpack_masks(packed, like))


def _apply(held: Version, part: bytes, codec: Codec) -> Version:
    number, packed, body = _parts(part)
    if number != held.number + 1:
        raise CodecError(f"downlink step leads to version {number}, this device holds {held.number}")
    masks = unpack_masks(packed, held.params)
    delta = codec.decode(body, held.params, masks=masks)
    return Version(number, add(apply_masks(held.params, masks), delta), masks)
