"""RigL moves as many weights as its schedule says, the right ones, and keeps the sparsity."""

import math

import numpy as np
import pytest

from fedlite.compress.masks import mask_id
from fedlite.compress.rigl import RigL, erdos_renyi, random_masks, regrow_fraction, rigl
from fedlite.errors import SettingsError
from fedlite.models import build, params_of
from fedlite.types import Array


def test_by_hand() -> None:
    """Two of four live go, the smallest: 0.1 and −0.2. The steepest two of what is then pruned: −9 and 3."""
    params = {"w": np.float32([[0.1, -0.2, 0.9, -0.8, 0, 0, 0]])}
    mask = {"w": np.array([[True] * 4 + [False] * 3])}
    slopes = {"w": np.float32([[1, 2, 50, 50, 3, 0.5, -9]])}
    assert rigl(params, slopes, mask, 0.5)["w"].tolist() == [[False, False, True, True, True, False, True]]


def test_what_went_may_come_back() -> None:
    """The weight that went is steeper than the pruned one: nothing changes. (Evci, Algorithm 1)"""
    params = {"w": np.float32([[0.1, 0.9, 0]])}
    mask = {"w": np.array([[True, True, False]])}
    assert rigl(params, {"w": np.float32([[5, 0, 4]])}, mask, 0.5)["w"].tolist() == [[True, True, False]]


def test_the_sparsity_of_each_layer_stays() -> None:
    params = params_of(build("small_cnn"))
    masks = random_masks(params, erdos_renyi(params, 0.8), seed=1)
    rng = np.random.default_rng(2)
    slopes = {name: np.float32(rng.standard_normal(value.shape)) for name, value in params.items()}
    moved = rigl(params, slopes, masks, 0.3)
    assert mask_id(moved) != mask_id(masks)
    for name, mask in masks.items():
        assert mask.sum() == moved[name].sum()
        assert (mask & ~moved[name]).sum() <= round(0.3 * int(mask.sum()))


def test_the_fraction_falls_as_a_cosine() -> None:
    """α/2 (1 + cos(π t / T)) at 0, T/3, T/2, T: α, 3/4 α, α/2, 0."""
    found = [regrow_fraction(t, 12, 0.4) for t in (0, 4, 6, 12, 13)]
    assert found == pytest.approx([0.4, 0.3, 0.2, 0, 0])


def test_erdos_renyi_kernel_by_hand() -> None:
    """Kernel (2, 2, 1, 1): (2 + 2 + 1 + 1) / 4 = 1.5 a weight, 6 in all; matrix (10, 10): 20 / 100 = 0.2, 20 in all.

    At half of 104 weights, 52: scale 52 / 26 = 2 would give the kernel density 3, so it is dense; the matrix has the
    other 48 of 100. At 0.9, 10.4: scale 0.4, densities 0.6 and 0.08.
    """
    params = {
        "conv": np.ones((2, 2, 1, 1), np.float32),
        "fc": np.ones((10, 10), np.float32),
        "bias": np.ones(10, np.float32),
    }
    assert erdos_renyi(params, 0.5) == pytest.approx({"conv": 0, "fc": 0.52})
    assert erdos_renyi(params, 0.9) == pytest.approx({"conv": 0.4, "fc": 0.92})
    assert erdos_renyi(params, 0) == {"conv": 0, "fc": 0}


def test_random_masks() -> None:
    params: dict[str, Array] = {"w": np.ones((10, 10), np.float32), "v": np.ones((1, 2), np.float32)}
    masks = random_masks(params, {"w": 0.83, "v": 0.99}, seed=3)
    assert [int(mask.sum()) for mask in masks.values()] == [17, 1]
    assert mask_id(masks) == mask_id(random_masks(params, {"v": 0.99, "w": 0.83}, seed=3))
    assert mask_id(masks) != mask_id(random_masks(params, {"w": 0.83, "v": 0.99}, seed=4))


def test_rounds_that_regrow() -> None:
    params = params_of(build("small_cnn"))
    pruner = RigL(0.8, end=9, seed=1, every=3)
    held = pruner.masks(0, params, {})
    total = sum(mask.size for mask in held.values())
    assert sum(int(mask.sum()) for mask in held.values()) == pytest.approx(0.2 * total, abs=2)
    assert [t for t in range(12) if pruner.wants_gradients(t)] == [3, 6]
    assert mask_id(pruner.masks(4, params, held)) == mask_id(held)
    assert mask_id(pruner.masks(6, params, held, params)) != mask_id(held)
    with pytest.raises(SettingsError, match="round 3"):
        pruner.masks(3, params, held)
    flat = RigL(0.8, end=9, seed=1, erk=False).masks(0, params, {})
    assert {round(1 - float(mask.mean()), 1) for mask in flat.values()} == {0.8}


def test_what_does_not_fit() -> None:
    params = {"w": np.ones((2, 2), np.float32)}
    full = {"w": np.ones((2, 2), np.bool_)}
    for call in (
        lambda: rigl(params, {}, full, 0.5),
        lambda: rigl(params, {"w": np.full((2, 2), math.nan, np.float32)}, full, 0.5),
        lambda: rigl(params, params, {"v": full["w"]}, 0.5),
        lambda: rigl(params, params, {"w": np.ones((2, 3), np.bool_)}, 0.5),
        lambda: rigl(params, params, full, 1.1),
        lambda: erdos_renyi(params, 1.0),
        lambda: random_masks(params, {"w": -1}, 0),
        lambda: random_masks(params, {"v": 0.5}, 0),
        lambda: RigL(1.0, 5, 0),
        lambda: RigL(0.5, 5, 0, every=0),
        lambda: RigL(0.5, 5, 0, alpha=2),
    ):
        with pytest.raises(SettingsError):
            call()
