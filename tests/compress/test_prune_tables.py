"""Thresholds, tables of layers and channels: what goes is what was asked, and a bad request is refused."""

import math

import numpy as np
import pytest

from fedlite.compress.masks import mask_id, pack_masks
from fedlite.compress.prune import channel_masks, magnitude_masks, spread, table_masks, threshold_masks
from fedlite.errors import SettingsError
from fedlite.models import build, params_of
from fedlite.types import Array

W = {
    "a.weight": np.float32([[3, -1], [2, -2]]),
    "a.bias": np.float32([9, 9]),
    "b.weight": np.float32([[1, -4, 0]]),
    "b.weight.act_range": np.float32([[0, 1]]),
}


def test_an_absolute_threshold() -> None:
    """|w| < 2 goes; 2 itself stays."""
    masks = threshold_masks(W, 2)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "a.weight": [[True, False], [True, True]],
        "b.weight": [[False, True, False]],
    }


def test_a_threshold_in_deviations() -> None:
    """b: mean −1, so σ = √((4 + 9 + 1) / 3) = 2.1602; half of it is 1.0801: the 1 goes, at 0.4 σ = 0.864 it stays."""
    assert math.isclose(float(np.std(W["b.weight"], dtype=float)), math.sqrt(14 / 3), rel_tol=1e-7)
    halves = threshold_masks(W, {"b": 0.5}, unit="deviation")
    assert list(halves) == ["b.weight"]
    assert halves["b.weight"].tolist() == [[False, True, False]]
    assert threshold_masks(W, {"b": 0.4}, unit="deviation")["b.weight"].tolist() == [[True, True, False]]


def test_the_deviation_is_that_of_live_weights() -> None:
    """Live are 1 and −4: σ = 2.5, and 0.42 σ = 1.05 prunes the 1. Over all three σ = 2.16, and 0.907 does not."""
    held = {"b.weight": np.array([[True, True, False]])}
    assert threshold_masks(W, 0.42, unit="deviation", held=held)["b.weight"].tolist() == [
        [False, True, False]
    ]
    assert threshold_masks(W, 0.42, unit="deviation")["b.weight"].tolist() == [[True, True, False]]


def test_the_largest_stays_however_high_the_threshold() -> None:
    masks = threshold_masks(W, 1e9)
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1]


def test_a_table_gives_each_layer_its_own() -> None:
    """Half of four is two, two thirds of three are two; the first pattern that matches counts."""
    masks = table_masks(W, {"b": 0.67, "*.weight": 0.5})
    assert masks["a.weight"].tolist() == [[True, False], [False, True]]
    assert masks["b.weight"].tolist() == [[False, True, False]]
    assert list(table_masks(W, {"b": 0.5})) == ["b.weight"]


def test_a_table_of_one_sparsity_is_the_layer_scope() -> None:
    params = params_of(build("small_cnn"))
    one, other = table_masks(params, {"*": 0.7}), magnitude_masks(params, 0.7, scope="layer")
    assert mask_id(one) == mask_id(other)


def test_held_masks_hold() -> None:
    """The zeros of pruned weights are no better than live zeros; a lower sparsity brings nothing back."""
    zeros = {"w": np.zeros((4, 4), np.float32)}
    held = {"w": np.arange(16).reshape(4, 4) % 2 == 0}
    more = magnitude_masks(zeros, 0.75, held=held)["w"]
    assert int(more.sum()) == 4
    assert not (more & ~held["w"]).any()
    assert (magnitude_masks(zeros, 0.1, held=held)["w"] == held["w"]).all()
    assert (magnitude_masks(zeros, 0.1, keep=lambda name: True, held=held)["w"] == held["w"]).all()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan])
def test_sparsities_outside_0_to_1(sparsity: float) -> None:
    for call in (
        lambda: magnitude_masks(W, sparsity),
        lambda: table_masks(W, {"a": sparsity}),
        lambda: channel_masks(W, {"a": np.zeros(2)}, sparsity),
    ):
        with pytest.raises(SettingsError, match="sparsity"):
            call()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite(bad: float) -> None:
    params: dict[str, Array] = {"ok": np.ones((2, 2), np.float32), "odd": np.float32([[1, bad]])}
    for call in (
        lambda: magnitude_masks(params, 0.5),
        lambda: table_masks(params, {"*": 0.5}),
        lambda: threshold_masks(params, 0.5),
    ):
        with pytest.raises(SettingsError, match="'odd' holds NaN"):
            call()


def test_a_layer_that_is_not_there() -> None:
    for call in (
        lambda: table_masks(W, {"a": 0.5, "features.9": 0.5}),
        lambda: threshold_masks(W, {"features.9": 0.5}),
        lambda: table_masks(W, {"features.9": 0.5}),
    ):
        with pytest.raises(SettingsError, match=r"features\.9"):
            call()
    with pytest.raises(SettingsError, match=r"a\.bias"):
        table_masks(W, {"a.bias": 0.5})


@pytest.mark.parametrize("threshold", [-1, math.nan, math.inf])
def test_thresholds_that_are_none(threshold: float) -> None:
    with pytest.raises(SettingsError, match="threshold"):
        threshold_masks(W, threshold)


def test_the_first_pattern_counts() -> None:
    assert spread({"a.*": 1, "*": 2}, ["a.weight", "b.weight"]) == {"a.weight": 1, "b.weight": 2}


def test_channels_go_with_their_bias() -> None:
    masks = channel_masks(W, {"a": np.array([0.2, 0.1])}, 0.5)
    assert masks["a.weight"].tolist() == [[True, True], [False, False]]
    assert masks["a.bias"].tolist() == [True, False]
    assert int(channel_masks(W, {"a": np.array([0.2, 0.1])}, 0.99)["a.bias"].sum()) == 1


@pytest.mark.parametrize("scores", [{"c": np.zeros(2)}, {"a": np.zeros(3)}, {"a": np.array([0, math.nan])}])
def test_scores_that_fit_no_layer(scores: dict[str, np.ndarray]) -> None:
    with pytest.raises(SettingsError):
        channel_masks(W, scores, 0.5)


def test_the_id_tells_coordinates_apart() -> None:
    """Same bits in another shape pack to the same bytes, and are other coordinates."""
    flat, tall = {"w": np.ones((2, 3), np.bool_)}, {"w": np.ones((3, 2), np.bool_)}
    assert pack_masks(flat) == pack_masks(tall)
    assert mask_id(flat) != mask_id(tall)
    one, two = np.array([[True, False]]), np.array([[False, True]])
    assert mask_id({"a": one, "b": two}) == mask_id({"b": two.copy(), "a": one.copy()})
    assert mask_id({"a": one, "b": two}) != mask_id({"a": two, "b": one})
    assert len(mask_id({})) == 32
