"""What every codec must do: one suite over all presets, and over compositions that no preset names."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedlite.compress.codec import Codec, encode_with_feedback
from fedlite.compress.presets import codec_by_name
from fedlite.errors import SettingsError, UpdateError
from fedlite.types import Array, Masks, is_statistic
from tests.conformance.codec_bounds import check_error
from tests.conformance.codec_cases import CODECS, VALUES, chance, large, live, small

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
both_sizes = pytest.mark.parametrize("model", [small, large])
Model = Callable[..., tuple[dict[str, Array], dict[str, NDArray[np.bool_]]]]

IDEMPOTENT = [
    "int4+bits",
    "int2-tensor+ans",
    "float16+zstd:3",
    "ring:16:0.01:10+ans",
    "int8",
    "int8-tensor",
    "float32",
    "plain",
    "int8+ans",
    "int8+zstd:1+zstd:9",
]
BYTES: dict[str, Callable[[int, int, int, int], int]] = {  # of W weights, S statistics, R channels, T tensors
    "int8": lambda w, s, r, t: 2 * r + w + 4 * s,
    "int8-tensor": lambda w, s, r, t: 2 * t + w + 4 * s,
    "float32": lambda w, s, r, t: 4 * (w + s),
    "plain": lambda w, s, r, t: 4 * (w + s),
    "int4": lambda w, s, r, t: 2 * r + w + 4 * s,
    "int2-tensor": lambda w, s, r, t: 2 * t + w + 4 * s,
    "float16": lambda w, s, r, t: 2 * w + 4 * s,
    "sign": lambda w, s, r, t: 2 * t + -(-w // 8) + 2 * s,
    "ring:16:0.1": lambda w, s, r, t: 2 * w + 4 * s,
    "ring:32:0.1": lambda w, s, r, t: 4 * (w + s),
    "step": lambda w, s, r, t: 7 + 2 * w + 2 * s,
    "exact": lambda w, s, r, t: 7 + 2 * w + 2 * s,
}


def encoded(codec: Codec, update: Mapping[str, Array], masks: Masks = MappingProxyType({})) -> bytes:
    return codec.encode(update, masks=masks, generator=chance())


@every_codec
@both_sizes
@pytest.mark.parametrize("masked", [False, True])
def test_round_trip(codec: Codec, masked: bool, model: Model) -> None:
    update, masks = model()
    masks = masks if masked else {}
    payload = encoded(codec, update, masks)
    got = codec.decode(payload, update, masks=masks)
    assert len(payload) <= codec.limit_bytes(update, masks=masks)
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
    if draw(st.booleans()):  # a matrix of any magnitudes
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        exponents = rng.uniform(draw(st.floats(-44, 38)), 38, (33, 40))
        update["matrix"] = (rng.choice([-1, 1], (33, 40)) * 10.0**exponents).astype(np.float32)
    return update, masks


@every_codec
@settings(max_examples=12, deadline=None, derandomize=True)
@given(case=updates())
def test_round_trip_of_any_shape_and_value(codec: Codec, case: tuple[dict[str, Array], Masks]) -> None:
    update, masks = case
    payload = encoded(codec, update, masks)
    assert len(payload) <= codec.limit_bytes(update, masks=masks)
    got = codec.decode(payload, update, masks=masks)
    check_error(codec, update, got, masks)


@every_codec
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_extreme_values_and_shapes(codec: Codec, value: float) -> None:
    for shape in ((), (1,), (5,), (2, 40), (1, 1, 1, 1), (0,), (3, 0), (0, 3), (32, 33)):
        update = {"w": np.full(shape, value, np.float32), "w.act_range": np.array([value, -1], np.float32)}
        check_error(codec, update, codec.decode(encoded(codec, update), update), {})


@every_codec
def test_nothing_to_send(codec: Codec) -> None:
    assert codec.decode(encoded(codec, {}), {}) == {}
    update, masks = {"w": np.ones((40, 40), np.float32)}, {"w": np.zeros((40, 40), bool)}
    got = codec.decode(encoded(codec, update, masks), update, masks=masks)
    np.testing.assert_array_equal(got["w"], np.zeros((40, 40)))


@pytest.mark.parametrize("text", BYTES)
def test_size_is_what_the_format_says(text: str) -> None:
    """54 + 3 + 40 + 1 weights and 2 statistics; scales: 3 rows of 18, bias, 2 rows of 20, t; or 4 tensors."""
    codec = Codec(serializer=codec_by_name(text).serializer, compressors=())
    update, masks = small()
    assert len(encoded(codec, update)) == codec.limit_bytes(update) == 20 + BYTES[text](98, 2, 7, 4)
    live = int(masks["conv.weight"].sum() + masks["fc"].sum()) + 4
    size = 20 + BYTES[text](live, 2, 6, 4)  # masks kill the middle channel
    assert len(encoded(codec, update, masks)) == codec.limit_bytes(update, masks=masks) == size


@every_codec
def test_size_after_the_compressors_is_what_they_give(codec: Codec) -> None:
    """A zstd frame's content, and an uncompressed body, have the size the serializer's planes say."""
    update, masks = large()
    content = encoded(codec, update, masks)[16:-4]
    for compressor in reversed(codec.compressors):
        if compressor.key != "zstd":
            return
        content = zstandard.decompress(content)
    bare = Codec(codec.filters, codec.serializer, ())
    assert len(content) == len(encoded(bare, update, masks)) - 20


@every_codec
def test_same_input_same_bytes(codec: Codec) -> None:
    update, masks = large()
    copy = {name: np.array(value) for name, value in update.items()}
    assert encoded(codec, update, masks) == encoded(codec, copy, masks)


@pytest.mark.parametrize("name", IDEMPOTENT)
def test_encoding_what_was_decoded_gives_the_same_bytes(name: str) -> None:
    codec = CODECS[name]
    for update, masks in (small(), large()):
        payload = encoded(codec, update, masks)
        assert encoded(codec, codec.decode(payload, update, masks=masks), masks) == payload


@every_codec
def test_layout_in_memory_does_not_matter(codec: Codec) -> None:
    wide = np.random.default_rng(1).normal(size=(36, 40)).astype(np.float32)
    views = {"t": wide.T, "s": wide[::2, ::-1], "f": np.asfortranarray(wide)}
    plain = {name: np.array(value, order="C") for name, value in views.items()}
    masks = {"t": wide.T > -1}
    other = {"t": np.array(masks["t"], order="C")}
    assert encoded(codec, views, masks) == encoded(codec, plain, other)


@every_codec
def test_arguments_are_not_changed(codec: Codec) -> None:
    update, masks = large()
    before = {name: value.tobytes() for name, value in {**update, **masks}.items()}
    codec.decode(encoded(codec, update, masks), update, masks=masks)
    encode_with_feedback(codec, update, None, masks=masks, generator=chance())
    assert {name: value.tobytes() for name, value in {**update, **masks}.items()} == before


@every_codec
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(codec: Codec, wrong: float) -> None:
    for name in ("conv.weight", "t", "in.act_range", "deep"):
        update, _ = large()
        update[name].reshape(-1)[-1:] = wrong
        with pytest.raises(UpdateError, match="NaN or infinity"):
            encoded(codec, update)


@every_codec
@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, ">f4"])
def test_values_that_are_not_float32_are_refused(codec: Codec, dtype: str) -> None:
    with pytest.raises(UpdateError, match="float32 expected"):
        codec.encode({"w": np.ones(3).astype(dtype)})  # type: ignore[dict-item]


@every_codec
def test_masks_that_do_not_fit_are_refused(codec: Codec) -> None:
    update, _ = small()
    payload = encoded(codec, update)
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
@both_sizes
def test_feedback_loses_nothing(codec: Codec, model: Model) -> None:
    """What was sent plus what is still owed is what was given: Σ decoded + residual = Σ updates, live ones."""
    residual: dict[str, Array] | None = None
    _, masks = model()
    given, sent = {}, {}
    for seed in range(5):
        update, _ = model(seed)
        payload, residual = encode_with_feedback(codec, update, residual, masks=masks, generator=chance(seed))
        decoded = codec.decode(payload, update, masks=masks)
        for name in update:
            given[name] = given.get(name, 0) + live(update, masks)[name].astype(np.float64)
            sent[name] = sent.get(name, 0) + decoded[name].astype(np.float64)
    assert residual is not None
    if not codec.owes:
        assert not any(value.any() for value in residual.values())
        return
    for name, total in given.items():
        np.testing.assert_allclose(sent[name] + residual[name], total, atol=2e-5)


@pytest.mark.parametrize(
    "name",
    ["small", "exact", "int2-tensor+ans", "int2-random+bits+zstd:1", "drive", "topk:0.1+step:2+ans",
     "topk-layer:0.05+int8+ans", "threshold:2:1+step:2+ans", "lowrank:2+int8", "lowrank:2+topk:0.5+step:0.5+ans"],
)  # fmt: skip
def test_what_is_owed_stays_bounded(name: str) -> None:
    """The same update in every round, until what is owed is as even as it gets: then, too, enough of it is sent."""
    rng, codec = np.random.default_rng(9), CODECS[name]
    update = {"w": (rng.normal(size=(36, 40)) * rng.lognormal(size=(36, 1))).astype(np.float32)}
    residual: dict[str, Array] | None = None
    sizes = []
    for turn in range(60):
        _, residual = encode_with_feedback(codec, update, residual, generator=chance(turn))
        sizes.append(float(np.linalg.norm(residual["w"]) / np.linalg.norm(update["w"])))
    assert sizes[-1] < 1.25 * sizes[29] < 10
