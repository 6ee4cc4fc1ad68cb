"""What every codec must do: one suite over all presets, and over compositions that no preset names."""

import struct
import tracemalloc
import zlib
from collections.abc import Mapping

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedlite.compress.codec import PRESETS, Codec, encode_with_feedback
from fedlite.compress.float32 import Float32
from fedlite.compress.int8 import Int8
from fedlite.compress.zstd import Zstd
from fedlite.errors import CodecError, SettingsError, UpdateError
from fedlite.types import Array, Masks, is_statistic

CODECS = {
    **PRESETS,
    "int8 uncompressed": Codec(compressors=()),
    "float32 uncompressed": Codec(serializer=Float32(), compressors=()),
    "int8-tensor uncompressed": Codec(serializer=Int8(per_channel=False), compressors=()),
    "int8 twice compressed": Codec(compressors=(Zstd(1), Zstd(9))),
}
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)

LARGEST = np.finfo(np.float32).max
VALUES = {
    "zeros": 0.0,
    "ones": 1.0,
    "minus one": -1.0,
    "largest": LARGEST,
    "smallest": -LARGEST,
    "least normal": np.float32(2.0**-126),
    "subnormal": np.float32(2.0**-149),
}


def model(seed: int = 0) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]]]:
    """An update with every kind of tensor, small; and masks, one of which kills a whole row."""
    rng = np.random.default_rng(seed)
    shapes = {
        "conv.weight": (3, 2, 3, 3),
        "conv.bias": (3,),
        "in.act_range": (2,),
        "fc": (2, 20),
        "t": (),
        "e": (0, 4),
    }
    update = {n: np.asarray(rng.laplace(size=s), np.float32) for n, s in shapes.items()}
    masks = {n: rng.random(shapes[n]) < 0.5 for n in ("conv.weight", "fc")}
    masks["conv.weight"][1] = False
    return update, masks


def expected(update: Mapping[str, Array], masks: Masks) -> dict[str, Array]:
    return {n: np.where(masks[n], v, np.float32(0)) if n in masks else v for n, v in update.items()}


def check_error(codec: Codec, update: Mapping[str, Array], got: Mapping[str, Array], masks: Masks) -> None:
    """Float32 is exact; int8 is within half a step, where a step is at most 1/127 of a row's peak and 1/256 more."""
    want = expected(update, masks)
    assert list(got) == list(want)
    for name, value in want.items():
        assert got[name].shape == value.shape
        assert got[name].dtype == np.float32
        if isinstance(codec.serializer, Float32) or is_statistic(name):
            assert got[name].tobytes() == np.ascontiguousarray(value).tobytes()
            continue
        per_channel = codec.serializer == Int8()
        own = per_channel and value.ndim >= 2 and value.shape[0] and value.size >= 16 * value.shape[0]
        exact = value.reshape(value.shape[0] if own else 1, -1).astype(np.float64)
        peaks = np.abs(exact).max(axis=1, initial=0, keepdims=True)
        half = peaks / 127 * (1 + 2**-8) / 2 * (1 + 2**-20)
        half = np.where(peaks < 127 * 2.0**-126, peaks, half)
        assert (np.abs(got[name].reshape(exact.shape) - exact) <= half).all()
        if name in masks:
            assert not got[name][~masks[name]].any()


@every_codec
@pytest.mark.parametrize("masked", [False, True])
def test_round_trip(codec: Codec, masked: bool) -> None:
    update, masks = model()
    masks = masks if masked else {}
    got = codec.decode(codec.encode(update, masks=masks), update, masks=masks)
    check_error(codec, update, got, masks)
    assert all(value.flags.c_contiguous and value.flags.writeable for value in got.values())


@st.composite
def updates(draw: st.DrawFn) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]]]:
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "é.weight", "x.act_range"]), unique=True))
    update, masks = {}, {}
    for name in names:
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
        shape = draw(st.sampled_from([shape, (3, 17)]))
        floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
        update[name] = draw(hnp.arrays(np.float32, shape, elements=floats))
        if not is_statistic(name) and draw(st.booleans()):
            masks[name] = draw(hnp.arrays(np.bool_, shape))
    return update, masks


@every_codec
@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=updates())
def test_round_trip_of_any_shape_and_value(codec: Codec, case: tuple[dict[str, Array], Masks]) -> None:
    update, masks = case
    payload = codec.encode(update, masks=masks)
    assert len(payload) <= codec.limit_bytes(update, masks=masks)
    got = codec.decode(payload, update, masks=masks)
    check_error(codec, update, got, masks)
    assert codec.encode(got, masks=masks) == payload


@every_codec
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 40), (1, 1, 1, 1), (0,), (3, 0), (0, 3)])
def test_extreme_values_and_shapes(codec: Codec, value: float, shape: tuple[int, ...]) -> None:
    update = {"w": np.full(shape, value, np.float32), "w.act_range": np.array([value, -1], np.float32)}
    check_error(codec, update, codec.decode(codec.encode(update), update), {})


@every_codec
def test_nothing_to_send(codec: Codec) -> None:
    assert codec.decode(codec.encode({}), {}) == {}
    update, masks = {"w": np.ones((2, 3), np.float32)}, {"w": np.zeros((2, 3), bool)}
    got = codec.decode(codec.encode(update, masks=masks), update, masks=masks)
    np.testing.assert_array_equal(got["w"], np.zeros((2, 3)))


@every_codec
def test_size_is_what_the_format_says(codec: Codec) -> None:
    """54 + 3 + 40 + 1 weights and 2 statistics; scales: 3 rows of 18, bias, 2 rows of 20, t; or 4 tensors."""
    update, masks = model()
    rows = 7 if codec.serializer == Int8() else 4
    body = 2 * rows + 98 + 4 * 2 if isinstance(codec.serializer, Int8) else 4 * 100
    payload = codec.encode(update)
    content = payload[16:-4]
    for _ in codec.compressors:
        content = zstandard.decompress(content)
    assert len(content) == body
    live = int(masks["conv.weight"].sum() + masks["fc"].sum()) + 4
    rows = 6 if codec.serializer == Int8() else 4  # masks kill the middle channel
    body = 2 * rows + live + 4 * 2 if isinstance(codec.serializer, Int8) else 4 * (live + 2)
    if not codec.compressors:
        assert len(codec.encode(update, masks=masks)) == 20 + body


@every_codec
def test_same_input_same_bytes(codec: Codec) -> None:
    update, masks = model()
    copy = {name: np.array(value) for name, value in update.items()}
    assert codec.encode(update, masks=masks) == codec.encode(copy, masks=masks)


@every_codec
def test_encoding_what_was_decoded_gives_the_same_bytes(codec: Codec) -> None:
    update, masks = model()
    payload = codec.encode(update, masks=masks)
    assert codec.encode(codec.decode(payload, update, masks=masks), masks=masks) == payload


@every_codec
def test_layout_in_memory_does_not_matter(codec: Codec) -> None:
    wide = np.random.default_rng(1).normal(size=(6, 40)).astype(np.float32)
    views = {"t": wide.T, "s": wide[::2, ::-1], "f": np.asfortranarray(wide)}
    plain = {name: np.array(value, order="C") for name, value in views.items()}
    masks = {"t": wide.T > 0}
    assert codec.encode(views, masks=masks) == codec.encode(
        plain, masks={"t": np.array(masks["t"], order="C")}
    )


@every_codec
def test_arguments_are_not_changed(codec: Codec) -> None:
    update, masks = model()
    before = {name: value.tobytes() for name, value in {**update, **masks}.items()}
    codec.decode(codec.encode(update, masks=masks), update, masks=masks)
    assert {name: value.tobytes() for name, value in {**update, **masks}.items()} == before


@every_codec
def test_every_flipped_bit_is_refused(codec: Codec) -> None:
    update, masks = model()
    payload = codec.encode(update, masks=masks)
    for position in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(CodecError):
            codec.decode(bytes(damaged), update, masks=masks)


@every_codec
def test_cut_and_padded_payloads_are_refused(codec: Codec) -> None:
    update, masks = model()
    payload = codec.encode(update, masks=masks)
    wrong = [payload[:end] for end in range(len(payload))]
    wrong += [payload + b"\0", b"\0" + payload, payload * 2, payload + bytes(10**6)]
    for other in wrong:
        with pytest.raises(CodecError):
            codec.decode(other, update, masks=masks)


@every_codec
def test_damage_under_a_right_check_value_is_refused_or_decodes_to_a_finite_update(codec: Codec) -> None:
    """A peer can compute a CRC too: nothing but CodecError may come out, and nothing that is not finite."""
    update, masks = model()
    payload = codec.encode(update, masks=masks)
    rng = np.random.default_rng(2)
    for _ in range(400):
        damaged = bytearray(payload[:-4])
        for place in rng.integers(16, len(damaged), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        forged = bytes(damaged) + struct.pack("<I", zlib.crc32(bytes(damaged)))
        try:
            got = codec.decode(forged, update, masks=masks)
        except CodecError:
            continue
        assert all(np.isfinite(value).all() for value in got.values())


@every_codec
def test_another_model_mask_or_codec_is_refused(codec: Codec) -> None:
    update, masks = model()
    payload = codec.encode(update, masks=masks)
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
        if stranger.stages != codec.stages:
            with pytest.raises(CodecError):
                stranger.decode(payload, update, masks=masks)


@every_codec
def test_claims_take_no_memory(codec: Codec) -> None:
    """Frames that claim a tebibyte, or hold 64 MiB of zeros, behind a right header and check value."""
    update, _ = model()
    head = codec.encode(update)[:16]
    claim = bytes.fromhex("28b52ffde0") + struct.pack("<Q", 1 << 40) + bytes.fromhex("010000")
    bomb = zstandard.compress(bytes(64 << 20))
    stream = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))
    for frame in (claim, bomb, stream):
        payload = head + frame
        payload += struct.pack("<I", zlib.crc32(payload))
        tracemalloc.start()
        with pytest.raises(CodecError):
            codec.decode(payload, update)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20


@every_codec
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(codec: Codec, wrong: float) -> None:
    for name in ("conv.weight", "t", "in.act_range"):
        update, _ = model()
        update[name].reshape(-1)[-1:] = wrong
        with pytest.raises(UpdateError, match="NaN or infinity"):
            codec.encode(update)


@every_codec
@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, ">f4"])
def test_values_that_are_not_float32_are_refused(codec: Codec, dtype: str) -> None:
    with pytest.raises(UpdateError, match="float32 expected"):
        codec.encode({"w": np.ones(3).astype(dtype)})  # type: ignore[dict-item]


@every_codec
def test_masks_that_do_not_fit_are_refused(codec: Codec) -> None:
    update, _ = model()
    payload = codec.encode(update)
    for masks in (
        {"fc": np.ones((20, 2), bool)},
        {"fc": np.ones((2, 20), np.uint8)},
        {"other": np.ones(3, bool)},
        {"in.act_range": np.ones(2, bool)},
    ):
        with pytest.raises(SettingsError, match="mask"):
            codec.encode(update, masks=masks)
        with pytest.raises(SettingsError, match="mask"):
            codec.decode(payload, update, masks=masks)


@every_codec
def test_feedback_loses_nothing(codec: Codec) -> None:
    """What was sent plus what is still owed is what was given: Σ decoded + residual = Σ updates, live ones."""
    residual: dict[str, Array] | None = None
    _, masks = model()
    given, sent = {}, {}
    for seed in range(5):
        update, _ = model(seed)
        payload, residual = encode_with_feedback(codec, update, residual, masks=masks)
        decoded = codec.decode(payload, update, masks=masks)
        for name in update:
            given[name] = given.get(name, 0) + expected(update, masks)[name].astype(np.float64)
            sent[name] = sent.get(name, 0) + decoded[name].astype(np.float64)
    assert residual is not None
    for name, total in given.items():
        np.testing.assert_allclose(sent[name] + residual[name], total, atol=1e-5)
        if isinstance(codec.serializer, Float32):
            assert not residual[name].any()
