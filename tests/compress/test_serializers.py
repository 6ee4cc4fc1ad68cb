"""Serializers beyond what every codec shares: bytes calculated by hand, means over draws, errors known from papers."""

import struct
import zlib

import numpy as np
import pytest

from fedlite.compress.codec import Codec
from fedlite.compress.eden import LEVELS, Eden
from fedlite.compress.hadamard import blocks, rotated, turned_back
from fedlite.compress.int8 import Int2, Int4, Int8
from fedlite.compress.layout import layout_of
from fedlite.compress.pack import packed, unpacked
from fedlite.compress.presets import codec_by_name
from fedlite.compress.ring import Ring
from fedlite.errors import CodecError, SettingsError
from fedlite.types import Array


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one(values: list[float]) -> dict[str, Array]:
    return {"w": np.array(values, np.float32)}


def body(text: str, update: dict[str, Array]) -> bytes:
    return codec_by_name(text).encode(update, generator=chance())[16:-4]


def through(codec: Codec, update: dict[str, Array], seed: int = 0) -> dict[str, Array]:
    return codec.decode(codec.encode(update, generator=chance(seed)), update)


def test_int4_and_int2_by_hand() -> None:
    """Peak 7: scale 1.0 = 0x7F00, levels 7, −4 (of −3.6), 2 (of 2.5, to even), 0. Peak 2: scale 2.0 = 0x8000."""
    assert body("int4", one([7, -3.6, 2.5, 0.2])) == bytes([0x7F, 0, 7, 0x100 - 4, 2, 0])
    assert body("int2", one([2, -1.5, 0.9, 0])) == bytes([0x80, 0, 1, 0xFF, 0, 0])


def test_bits_by_hand() -> None:
    """Levels 7, −4, 2, 0 in 4 bits: 0111, 1100, 0010, 0000, lowest first: 0xC7, 0x02. 1, −1, 0, 0 in 2: 0b00001101."""
    assert body("int4+bits", one([7, -3.6, 2.5, 0.2])) == bytes([0x7F, 0, 4, 0xC7, 0x02])
    assert body("int2+bits", one([2, -1.5, 0.9, 0])) == bytes([0x80, 0, 2, 0b00001101])
    assert body("int2+bits", one([0, 0])) == bytes([0, 0, 0])


def test_float16_by_hand() -> None:
    """1.5 = 0x3E00, −2^-24 = 0x8001, 1e6 is cut to 65504 = 0x7BFF: low bytes, then high bytes."""
    assert body("float16", one([1.5, -(2.0**-24), 1e6])) == bytes([0x00, 0x01, 0xFF, 0x3E, 0x80, 0x7B])


def test_sign_by_hand() -> None:
    """Mean of 1, 2, 0 and 3: 1.5 = 0x3FC0; bits 0, 1, 0, 1 from the lowest. Of zeros: nothing."""
    assert body("sign", one([1, -2, 0, -3])) == bytes([0xC0, 0x3F, 0b1010])
    assert body("sign", one([0, -0.0])) == bytes(3)


def test_ring_by_hand() -> None:
    """Steps of a half: 3 and −1 steps; for 10 clients a level is at most 3276. Statistics at 2^-16."""
    update = {"w": np.array([1.5, -0.5, 1e9], np.float32), "x.running_mean": np.array([-1], np.float32)}
    assert body("ring:16:0.5:10", update) == struct.pack("<3hi", 3, -1, 3276, -(2**16))
    assert body("ring:32:0.5:10", update) == struct.pack("<4i", 3, -1, (2**31 - 1) // 10, -(2**16))


def test_eden_by_hand() -> None:
    """Two equal weights, signs of the seed drawn: H D x / √2 is one coordinate of length 2 √2 and one of 0."""
    codec, update = codec_by_name("eden:1"), one([2, 2])
    found = codec.encode(update, generator=chance())[16:-4]
    assert len(found) == 8 + 4 + 1
    scale = struct.unpack_from("<f", found, 8)[0]
    assert scale == pytest.approx(8 / (0.7980 * 8**0.5))  # |x|² / (c · |H D x / √2|₁)
    got = codec.decode(codec.encode(update, generator=chance()), update)["w"]
    assert float(got @ update["w"]) == pytest.approx(8)


@pytest.mark.parametrize("kind", [Int8, Int4, Int2])
def test_rounding_at_random_is_unbiased(kind: type[Int8]) -> None:
    """0.3 steps in 40 000 weights: mean 0.3, standard error 0.0023."""
    codec = Codec((), kind(stochastic=True), ())
    top = kind().top
    update = one([top / 128] + [0.3 / 128] * 40_000 + [-0.3 / 128] * 40_000)
    got = through(codec, update)["w"] * 128
    assert abs(got[1:40_001].mean() - 0.3) < 0.01
    assert abs(got[40_001:].mean() + 0.3) < 0.01


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 8, 9, 15, 16])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 1000, (1 << 16) + 5])
def test_packing_is_undone(width: int, count: int) -> None:
    values = chance(width).integers(0, 1 << width, count).astype(np.uint16)
    data = packed(values, width)
    assert len(data) == -(-count * width // 8)
    np.testing.assert_array_equal(unpacked(data, count, width), values)
    if count * width % 8:
        with pytest.raises(CodecError, match="behind"):
            unpacked(data[:-1] + bytes([data[-1] | 0x80]), count, width)


def test_packing_is_lowest_bit_first_as_an_integer_would_be() -> None:
    values = chance(1).integers(0, 1 << 5, 33)
    number = sum(int(value) << 5 * place for place, value in enumerate(values))
    assert packed(values.astype(np.uint8), 5) == number.to_bytes(21, "little")


def test_bits_refuses_a_width_that_is_not_the_least() -> None:
    """3 and −3 in 4 bits instead of 3; −4 in 3 bits, which is 4 bits' level; width 1."""
    codec, update = codec_by_name("int4+bits"), one([0, 0])
    head = codec.encode(update)[:16]
    for wrong in (
        bytes([0, 0, 4, 0xD3]),
        bytes([0, 0, 3, 0b100]),
        bytes([0, 0, 1, 1]),
        bytes([0, 0, 9, 0, 0]),
    ):
        payload = head + wrong
        with pytest.raises(CodecError, match="bits"):
            codec.decode(payload + struct.pack("<I", zlib.crc32(payload)), update)


def test_blocks_are_powers_of_two_and_the_last_is_filled() -> None:
    assert list(blocks(1)) == [(1, 1)]
    assert list(blocks(200)) == [(200, 256)]
    assert list(blocks(1000)) == [(512, 512), (256, 256), (232, 256)]
    assert list(blocks(200_000)) == [(65536, 65536)] * 3 + [(2048, 2048), (1024, 1024), (256, 256), (64, 64)]
    assert sum(size for _, size in blocks(1_663_370)) < 1.0001 * 1_663_370


def test_the_rotation_is_hadamards_and_keeps_lengths() -> None:
    """Against Sylvester's construction, and back."""
    seed, values = chance().bytes(8), chance(1).normal(size=64)
    matrix = np.ones((1, 1))
    while len(matrix) < 64:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    signs = turned_back(matrix[:, 0] * 8, seed, 5)[:1]  # D e₀ · 8 · √64 / 8
    turned = rotated(values, seed, 5)
    assert abs(signs[0]) == pytest.approx(64)
    np.testing.assert_allclose(turned_back(turned, seed, 5), values, atol=1e-14)
    drawn = matrix @ turned / 8 / values  # the signs, as H is its own inverse
    np.testing.assert_allclose(np.abs(drawn), 1, atol=1e-9)
    assert 10 < (drawn < 0).sum() < 54


@pytest.mark.parametrize(("bits", "error"), [(1, np.pi / 2 - 1), (2, 0.1331), (3, 0.03576), (4, 0.009591)])
def test_eden_errs_as_published(bits: int, error: float) -> None:
    """NMSE of DRIVE for large d is π/2 − 1 (Theorem 3); EDEN's 1 / (1 − D) − 1 with Max's distortions D (Table I)."""
    heavy = chance(3).standard_t(3, size=2**16).astype(np.float32)
    codec = Codec((), Eden(bits), ())
    got = through(codec, {"w": heavy})["w"].astype(np.float64)
    found = float(((got - heavy) ** 2).sum() / (heavy.astype(np.float64) ** 2).sum())
    assert found == pytest.approx(error, rel=0.03)


def test_levels_of_eden_are_their_own_means() -> None:
    """Lloyd's condition, checked on the normal density by the midpoint rule, to the table's four digits."""
    x = (np.arange(-800_000, 800_000) + 0.5) / 1e5
    density = np.exp(-(x**2) / 2)
    for levels in LEVELS.values():
        which = np.searchsorted((levels[1:] + levels[:-1]) / 2, x)
        means = np.bincount(which, density * x) / np.bincount(which, density)
        np.testing.assert_allclose(levels, means, atol=1.5e-3)


def test_eden_is_unbiased() -> None:
    """The mean over 400 rotations; the error of one is √0.57 of the vector's length, of 400 a twentieth of that."""
    update = {"w": chance(4).laplace(size=300).astype(np.float32)}
    codec = codec_by_name("drive")
    mean = sum(through(codec, update, seed)["w"].astype(np.float64) for seed in range(400)) / 400
    error = float(np.linalg.norm(mean - update["w"]) / np.linalg.norm(update["w"]))
    assert error < 1.5 * (np.pi / 2 - 1) ** 0.5 / 20


def test_drive_is_eden_of_one_bit() -> None:
    assert codec_by_name("drive").id == codec_by_name("eden:1").id


@pytest.mark.parametrize("bits", [16, 32])
def test_sums_in_the_ring_are_sums_of_values(bits: int) -> None:
    """Seven updates, added as unsigned words modulo 2^bits behind random masks that cancel."""
    rng, like = chance(5), {"w": np.zeros((40, 50), np.float32), "x.running_var": np.zeros(3, np.float32)}
    ring, layout = Ring(bits, 0.01, 7), layout_of(like, {})
    codec = Codec((), ring, ())
    updates = [{n: rng.normal(size=v.shape).astype(np.float32) for n, v in like.items()} for _ in range(7)]
    kind = np.dtype(f"<u{bits // 8}")
    words, measured = np.zeros(2000, kind), np.zeros(3, np.uint32)
    mask = rng.integers(0, 1 << bits, (7, 2000), dtype=kind)
    mask[-1] = -mask[:-1].sum(axis=0, dtype=kind)
    for update, hidden in zip(updates, mask, strict=True):
        content = codec.encode(update)[16:-4]
        words += np.frombuffer(content, kind, 2000) + hidden
        measured += np.frombuffer(content, "<u4", 3, 2000 * kind.itemsize)
    total, statistics = ring.read(words.tobytes() + measured.tobytes(), layout, 7)
    exact = [sum(update[name].astype(np.float64) for update in updates) for name in like]
    np.testing.assert_allclose(total, exact[0].ravel(), atol=7 * 0.005 + 1e-5)
    np.testing.assert_allclose(statistics, exact[1], atol=7 * 2.0**-17 + 1e-5)
    with pytest.raises(CodecError, match="beyond"):
        ring.read(np.full(2000, (1 << bits - 1) - 1, kind).tobytes() + measured.tobytes(), layout, 1)
    with pytest.raises(SettingsError, match="sum of 8"):
        ring.read(b"", layout, 8)


@pytest.mark.parametrize(
    "text",
    ["eden:0", "eden:5", "eden:1.5", "ring", "ring:16", "ring:8:0.1", "ring:16:0", "ring:16:nan", "ring:16:0.1:0",
     "ring:16:0.1:32768", "ring:16:0.1:1.5", "int3", "sign:2", "float16:1"],
)  # fmt: skip
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        codec_by_name(text)


@pytest.mark.parametrize("text", ["int4-random", "drive", "ring-random:16:0.1"])
def test_what_draws_needs_a_generator(text: str) -> None:
    with pytest.raises(SettingsError, match="generator"):
        codec_by_name(text).encode(one([1.0]))
