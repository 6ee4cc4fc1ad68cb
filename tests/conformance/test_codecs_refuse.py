"""What every codec must refuse: damage, other models, other codecs, and claims, in little memory."""

import contextlib
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

from fedlite.compress.codec import Codec
from fedlite.errors import CodecError
from fedlite.types import Array
from tests.conformance.codec_cases import CODECS, chance, large, small

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
both_sizes = pytest.mark.parametrize("model", [small, large])
Model = Callable[[], tuple[dict[str, Array], dict[str, NDArray[np.bool_]]]]


def checked(head: bytes) -> bytes:
    """With the check value that a peer can compute too."""
    return head + struct.pack("<I", zlib.crc32(head))


@every_codec
@both_sizes
def test_flipped_bits_are_refused(codec: Codec, model: Model) -> None:
    """Every bit of a short payload, some of a long one."""
    update, masks = model()
    payload = codec.encode(update, masks=masks, generator=chance())
    bits = 8 * len(payload)
    for position in range(bits) if bits < 4000 else np.random.default_rng(0).integers(bits, size=400):
        damaged = bytearray(payload)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(CodecError):
            codec.decode(bytes(damaged), update, masks=masks)


@every_codec
def test_cut_and_padded_payloads_are_refused(codec: Codec) -> None:
    update, masks = small()
    payload = codec.encode(update, masks=masks, generator=chance())
    wrong = [payload[:end] for end in range(len(payload))]
    wrong += [payload + b"\0", b"\0" + payload, payload * 2, payload + bytes(10**6)]
    for other in wrong:
        with pytest.raises(CodecError):
            codec.decode(other, update, masks=masks)


@every_codec
@both_sizes
def test_cut_and_padded_bodies_are_refused_under_a_right_check_value(codec: Codec, model: Model) -> None:
    update, masks = model()
    payload = codec.encode(update, masks=masks, generator=chance())
    body = len(payload) - 20
    ends = range(body) if body < 300 else np.random.default_rng(0).integers(body, size=60)
    wrong = [payload[: 16 + end] for end in ends] + [payload[:-4] + more for more in (b"\0", b"\1" * 9)]
    for other in wrong:
        with pytest.raises(CodecError):
            codec.decode(checked(other), update, masks=masks)


@every_codec
@both_sizes
def test_damage_under_a_right_check_value_is_refused_or_decodes_to_a_finite_update(
    codec: Codec, model: Model
) -> None:
    """A peer can compute a CRC too: nothing but CodecError may come out, and nothing that is not finite."""
    update, masks = model()
    payload = codec.encode(update, masks=masks, generator=chance())
    rng = np.random.default_rng(2)
    for turn in range(120):
        damaged = bytearray(payload[:-4])
        end = min(len(damaged), 100) if turn % 2 else len(damaged)  # heads are where most can go wrong
        for place in rng.integers(16, end, rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        try:
            got = codec.decode(checked(bytes(damaged)), update, masks=masks)
        except CodecError:
            continue
        assert all(np.isfinite(value).all() for value in got.values())


@every_codec
def test_another_model_mask_or_codec_is_refused(codec: Codec) -> None:
    update, masks = small()
    payload = codec.encode(update, masks=masks, generator=chance())
    fc = update["fc"]
    others = [
        (update, {}),
        (update, {**masks, "fc": ~masks["fc"]}),
        (update, {**masks, "conv.bias": np.ones(3, bool)}),
        ({**update, "fc": fc.reshape(4, 10)}, {"conv.weight": masks["conv.weight"]}),
        ({**update, "more": fc}, masks),
        (dict(reversed(update.items())), masks),
        ({("Fc" if n == "fc" else n): v for n, v in update.items()}, {"conv.weight": masks["conv.weight"]}),
    ]
    for like, other in others:
        with pytest.raises(CodecError):
            codec.decode(payload, like, masks=other)
    for stranger in CODECS.values():
        if stranger.key != codec.key:
            with pytest.raises(CodecError):
                stranger.decode(payload, update, masks=masks)
    unknown = payload[:4] + b"\0\1\2\3" + payload[8:-4]
    with pytest.raises(CodecError, match="written by codec"):
        codec.decode(checked(unknown), update, masks=masks)


@every_codec
def test_claims_take_no_memory(codec: Codec) -> None:
    """What claims a tebibyte, or holds 64 MiB of zeros, behind a right header and check value."""
    update, _ = large()
    head = codec.encode(update, generator=chance())[:16]
    frame = bytes.fromhex("28b52ffde0") + struct.pack("<Q", 1 << 40) + bytes.fromhex("010000")
    bodies = [frame, zstandard.compress(bytes(64 << 20))]
    bodies.append(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20)))
    bodies += [bytes([way]) + struct.pack("<3I", *(2**32 - 1,) * 3) + bytes(50) for way in (0, 1, 2)]
    bodies += [b"\0" * 8 + b"\1" + struct.pack("<3I", 60, 2**31, 40) + bytes(47)]  # behind an int8 plane
    for body in bodies:
        payload = checked(head + body)
        tracemalloc.start()
        with pytest.raises(CodecError):
            codec.decode(payload, update)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20


@every_codec
def test_the_memory_of_decoding_depends_on_the_model_alone(codec: Codec) -> None:
    """However a payload is altered: less than 3 MB of tables, and 4 times the model."""
    update, _ = large()
    payload = codec.encode(update, generator=chance())
    model_bytes = 4 * sum(value.size for value in update.values())
    rng = np.random.default_rng(3)
    for _ in range(40):
        damaged = bytearray(payload[:-4])
        for place in rng.integers(16, min(len(damaged), 60), 3):
            damaged[place] = rng.integers(256)
        tracemalloc.start()
        with contextlib.suppress(CodecError):
            codec.decode(checked(bytes(damaged)), update)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < (3 << 20) + 4 * model_bytes
