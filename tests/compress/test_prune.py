"""Masks prune exactly as many weights as asked, the same ones everywhere, and packed masks are exact."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlite.compress.prune import magnitude_masks, pack_masks, sparsity_of, unpack_masks
from fedlite.errors import CodecError, SettingsError
from fedlite.types import Array

Masks = dict[str, NDArray[np.bool_]]


def weights(seed: int, *shapes: tuple[int, ...], levels: int = 0) -> dict[str, Array]:
    """Random tensors named w0, w1, …; with `levels`, whole numbers below it, so that magnitudes tie."""
    rng = np.random.default_rng(seed)
    draw = (lambda s: rng.integers(-levels, levels + 1, s)) if levels else rng.standard_normal
    return {f"w{index}": np.asarray(draw(shape), np.float32) for index, shape in enumerate(shapes)}


shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)
sparsities = st.floats(0, 1, exclude_max=True)
models = st.builds(
    lambda s, seed, levels: weights(seed, *s, levels=levels), shapes, st.integers(0, 99), st.integers(0, 3)
)


def pruned(masks: Masks) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


def test_a_hand_made_example() -> None:
    """|w| = 3 1 | 2 2 | 1 4 over two tensors; half of six go: both ones, then the first of the two twos."""
    params = {"a": np.float32([[3, -1], [2, -2]]), "bias": np.float32([0, 0]), "b": np.float32([[1, -4]])}
    masks = magnitude_masks(params, 0.5)
    assert list(masks) == ["a", "b"]
    assert masks["a"].tolist() == [[True, False], [False, True]]
    assert masks["b"].tolist() == [[False, True]]
    assert sparsity_of(params, masks) == 3 / 8


@settings(deadline=None)
@given(models, sparsities)
def test_global_scope_prunes_exactly_the_smallest(params: dict[str, Array], sparsity: float) -> None:
    """The count is round(s · n), less where every tensor is down to its last weight; none pruned is larger
    than one that stays, the protected largest of each tensor aside. Checked against a plain stable sort."""
    masks = magnitude_masks(params, sparsity)
    total = sum(value.size for value in params.values())
    assert pruned(masks) == min(round(sparsity * total), total - len(params))
    order = sorted(
        (abs(float(size)), place, index)
        for place, value in enumerate(params.values())
        for index, size in enumerate(value.ravel())
        if index != int(np.abs(value).argmax())
    )
    gone = {(place, index) for _, place, index in order[: pruned(masks)]}
    got = {
        (place, int(index))
        for place, mask in enumerate(masks.values())
        for index in np.flatnonzero(~mask.ravel())
    }
    assert got == gone


@settings(deadline=None)
@given(models, sparsities)
def test_layer_scope_prunes_each_tensor_alike(params: dict[str, Array], sparsity: float) -> None:
    masks = magnitude_masks(params, sparsity, scope="layer")
    for name, value in params.items():
        assert (~masks[name]).sum() == min(round(sparsity * value.size), value.size - 1)


@settings(deadline=None)
@given(models)
def test_higher_sparsity_prunes_more_of_the_same(params: dict[str, Array]) -> None:
    low, high = magnitude_masks(params, 0.3), magnitude_masks(params, 0.6)
    assert all((low[name] | ~high[name]).all() for name in params)


def test_a_tensor_of_tiny_weights_keeps_its_largest() -> None:
    params = {"big": np.ones((10, 10), np.float32), "tiny": np.full((2, 3), 1e-9, np.float32)}
    params["tiny"][1, 1] = -2e-9
    masks = magnitude_masks(params, 0.9)
    assert np.flatnonzero(masks["tiny"]).tolist() == [4]
    assert pruned(masks) == round(0.9 * 106)


def test_only_weights_of_two_dimensions_are_pruned() -> None:
    params = {
        "conv.weight": np.ones((2, 1, 3, 3), np.float32),
        "conv.bias": np.zeros(2, np.float32),
        "conv.act_range": np.zeros(2, np.float32),
        "embedding.weight": np.zeros((5, 2), np.float32),
    }
    assert list(magnitude_masks(params, 0.5)) == ["conv.weight", "embedding.weight"]
    kept = magnitude_masks(params, 0.5, keep=lambda name: name.startswith("embedding"))
    assert list(kept) == ["conv.weight"]
    assert pruned(kept) == 9
    assert magnitude_masks(params, 0.5, keep=lambda name: True) == {}
    assert sparsity_of(params, {}) == 0


def test_weights_are_left_as_they_are() -> None:
    params = weights(0, (4, 5))
    before = params["w0"].copy()
    magnitude_masks(params, 0.5)
    np.testing.assert_array_equal(params["w0"], before)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan"), float("inf")])
def test_a_sparsity_outside_its_range_is_refused(sparsity: float) -> None:
    with pytest.raises(SettingsError, match=r"\[0, 1\)"):
        magnitude_masks(weights(0, (2, 2)), sparsity)


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(SettingsError, match="global or layer"):
        magnitude_masks(weights(0, (2, 2)), 0.5, scope="channel")  # type: ignore[arg-type]


def test_packed_masks_byte_by_byte() -> None:
    """Two masks, by name; 3 + 6 bits: 101 0 11 00 1 → 1010 1100 | 1000 0000."""
    masks = {"b": np.array([[0, 1, 1], [0, 0, 1]], bool), "a": np.array([[1, 0, 1]], bool)}
    packed = bytes([2, 0, 1, 0]) + b"a" + bytes([1, 0]) + b"b" + bytes([0b10101100, 0b10000000])
    assert pack_masks(masks) == packed
    like = {"b": np.zeros((2, 3), np.float32), "a": np.zeros((1, 3), np.float32)}
    assert list(unpack_masks(packed, like)) == ["b", "a"]


def test_no_masks_are_two_bytes() -> None:
    assert pack_masks({}) == b"\0\0"
    assert unpack_masks(b"\0\0", weights(0, (2, 2))) == {}


@settings(deadline=None)
@given(models, sparsities, st.sets(st.sampled_from(["w0", "w1", "w2", "w3"])))
def test_packed_masks_round_trip(params: dict[str, Array], sparsity: float, some: set[str]) -> None:
    masks = magnitude_masks(params, sparsity, keep=lambda name: name in some)
    got = unpack_masks(pack_masks(masks), params)
    assert list(got) == list(masks)
    for name, mask in masks.items():
        assert got[name].dtype == np.bool_
        np.testing.assert_array_equal(got[name], mask)
    bits = sum(mask.size for mask in masks.values())
    assert len(pack_masks(masks)) == 2 + 4 * len(masks) + (bits + 7) // 8


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_altered_bytes_are_refused_or_are_other_masks(position: int, value: int) -> None:
    """Whatever is accepted is exactly what the encoder writes for the masks it decodes to."""
    params = weights(1, (3, 5), (2, 2), (7, 1))
    packed = bytearray(pack_masks(magnitude_masks(params, 0.5)))
    packed[position % len(packed)] = value
    try:
        got = unpack_masks(bytes(packed), params)
    except CodecError:
        return
    assert pack_masks(got) == bytes(packed)


def test_any_other_length_is_refused() -> None:
    params = weights(1, (3, 5), (2, 2))
    packed = pack_masks(magnitude_masks(params, 0.5))
    for bad in [packed[:length] for length in range(len(packed))] + [packed + b"\0"]:
        with pytest.raises(CodecError):
            unpack_masks(bad, params)


@pytest.mark.parametrize(
    "names", [["x"], ["w.act_range"], ["w", "w"], ["w", "v"], ["w", "v", "x", "y"]], ids=str
)
def test_names_no_encoder_writes_are_refused(names: list[str]) -> None:
    like = {name: np.zeros((2, 4), np.float32) for name in ("v", "w")} | {
        "w.act_range": np.zeros(2, np.float32)
    }
    header = b"".join(len(name).to_bytes(2, "little") + name.encode() for name in names)
    for size in range(5):
        with pytest.raises(CodecError):
            unpack_masks(len(names).to_bytes(2, "little") + header + bytes(size), like)


def test_a_header_cannot_make_the_reader_take_memory() -> None:
    like = weights(0, (2, 2))
    hostile = b"\xff\xff" + b"\xff\xff" * 100
    tracemalloc.start()
    with pytest.raises(CodecError):
        unpack_masks(hostile, like)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**5
