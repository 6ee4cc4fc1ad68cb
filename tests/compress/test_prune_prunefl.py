"""PruneFL takes the weights that lower the loss most for their time: by hand, against every subset, in training."""

import itertools
import math

import numpy as np
import pytest

from fedlite.compress.masks import mask_id
from fedlite.compress.prunefl import Costs, PruneFl, full_masks, readjust, settled
from fedlite.errors import SettingsError
from fedlite.types import Array

PARAMS: dict[str, Array] = {
    "a.weight": np.float32([[5, 1, 0, 0]]),  # live, live, pruned, pruned
    "a.bias": np.float32([1]),
    "b.weight": np.float32([[3, 2]]),  # live, live
}
MASKS = {"a.weight": np.array([[True, True, False, False]]), "b.weight": np.array([[True, True]])}
SQUARES: dict[str, Array] = {
    "a.weight": np.float32([[4, 1, 9, 2]]),
    "a.bias": np.float32([6]),
    "b.weight": np.float32([[8, 3]]),
}
COSTS = Costs(4, {"a": 1, "b": 2})


def test_by_hand() -> None:
    """Half of the live ones of each layer may go: fixed are a₀ (5 > 1), b₀ (3 > 2) and the bias.

    Σ g² = 4 + 8 + 6 = 18, T = 4 + 1 + 2 = 7: Γ = 2.571. Candidates by g²/t: a₂ 9, a₃ 2, b₁ 3/2, a₁ 1.
    a₂: 9 > 2.571, so Γ = 27/8 = 3.375. a₃: 2 < 3.375, the end. a₁ and b₁ go, a₂ comes back.
    """
    masks = readjust(PARAMS, SQUARES, MASKS, COSTS, removable=0.5)
    assert masks["a.weight"].tolist() == [[True, False, True, False]]
    assert masks["b.weight"].tolist() == [[True, False]]


def test_dear_rounds_take_more() -> None:
    """c = 40: Γ = 18/43 = 0.42; then a₂ 27/44 = 0.61, a₃ 29/45 = 0.64, b₁ 32/47 = 0.68, a₁ 33/48: all are above."""
    masks = readjust(PARAMS, SQUARES, MASKS, Costs(40, {"a": 1, "b": 2}), removable=0.5)
    assert all(mask.all() for mask in masks.values())


def test_nothing_removable() -> None:
    """Fixed are all four live ones: Γ = 22/10 = 2.2, below 9, then 31/11 = 2.82, above 2."""
    masks = readjust(PARAMS, SQUARES, MASKS, COSTS, removable=0)
    assert masks["a.weight"].tolist() == [[True, True, True, False]]
    assert masks["b.weight"].tolist() == [[True, True]]


def test_at_most_so_many() -> None:
    """A third of six is two, which are fixed already."""
    masks = readjust(PARAMS, SQUARES, MASKS, COSTS, removable=0.5, most_live=1 / 3)
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_no_subset_is_better(seed: int) -> None:
    """Of all 2^8 choices of the candidates, none has a larger Σ g² / (c + Σ t)."""
    rng = np.random.default_rng(seed)
    params = {name: np.float32(rng.standard_normal((2, 3))) for name in ("a", "b")}
    masks = {name: np.abs(value) > 0.4 for name, value in params.items()}
    squares = {name: np.float32(rng.exponential(size=(2, 3))) for name in params}
    costs = Costs(float(rng.uniform(0.5, 9)), {"a": 1.0, "b": 1.7})
    kept = {name: readjust(params, squares, masks, costs, removable=0.5)[name] for name in params}
    bits = np.concatenate([kept[name].ravel() for name in params])
    fixed = []
    for name, value in params.items():  # the largest half of the live ones, and one more of an odd number
        order = np.argsort(-np.where(masks[name], np.abs(value), -1).ravel(), kind="stable")
        count = int(masks[name].sum())
        fixed.append(np.isin(np.arange(6), order[: count - count // 2]))
    gain = np.concatenate([squares[name].ravel() for name in params]).astype(float)
    time = np.repeat([1.0, 1.7], 6)
    always = np.concatenate(fixed)

    def ratio(chosen: np.ndarray) -> float:
        return float(gain[chosen].sum() / (costs.constant + time[chosen].sum()))

    free = np.flatnonzero(~always)
    best = max(
        ratio(always | np.isin(np.arange(12), some))
        for size in range(len(free) + 1)
        for some in itertools.combinations(free, size)
    )
    assert (bits | ~always).all()
    assert math.isclose(ratio(bits), best, rel_tol=1e-12)


def test_rounds_that_readjust() -> None:
    pruner = PruneFl(constant=4, per_weight=(("a", 1.0), ("b", 2.0)), initial=0.5, every=3, until=6)
    first = pruner.masks(0, PARAMS, {})
    assert [int(mask.sum()) for mask in first.values()] == [2, 1]
    assert [t for t in range(10) if pruner.wants_gradients(t)] == [3, 6]
    assert mask_id(pruner.masks(2, PARAMS, first)) == mask_id(first)
    again = pruner.masks(3, PARAMS, first, SQUARES)
    assert again["a.weight"].tolist() == [[True, True, True, False]]  # int(0.3 · 2) = 0 may go
    with pytest.raises(SettingsError, match="round 3"):
        pruner.masks(3, PARAMS, first)


def test_the_share_that_may_go_halves() -> None:
    """0.5 in round 0 is 0.25 in round 2: of 8 live weights the 2 without gradient go, not 4."""
    params = {"a": np.float32([np.arange(1, 9)])}
    squares = {"a": np.float32([[0, 0, 0, 0, 1, 1, 1, 1]])}
    pruner = PruneFl(constant=1, every=2, removable=0.5, halving=2)
    masks = pruner.masks(2, params, full_masks(params), squares)
    assert masks["a"].tolist() == [[False] * 2 + [True] * 6]


def test_when_a_client_is_done() -> None:
    """Five changes below a tenth in a row."""
    assert not settled([100, 50, 49, 48, 47, 46])
    assert settled([100, 50, 49, 48, 47, 46, 45])
    assert not settled([])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"squares": {n: v for n, v in SQUARES.items() if n != "a.bias"}}, "a.bias"),
        ({"squares": SQUARES | {"a.bias": np.float32([math.nan])}}, "a.bias"),
        ({"squares": SQUARES | {"a.bias": np.float32([1, 2])}}, "a.bias"),
        ({"masks": MASKS | {"c": np.ones((1, 1), np.bool_)}}, "c"),
        ({"costs": Costs(0, {"*": 1})}, "positive"),
        ({"costs": Costs(1, {"*": -1})}, "positive"),
        ({"costs": Costs(1, {"a": 1})}, "b.weight"),
        ({"costs": Costs(1, {"features.9": 1, "*": 1})}, "features.9"),
        ({"removable": 1.5}, "removable"),
        ({"params": PARAMS | {"b.weight": np.float32([[math.nan, 1]])}}, "b.weight"),
    ],
)
def test_what_does_not_fit(change: dict[str, object], word: str) -> None:
    given: dict[str, object] = {"params": PARAMS, "squares": SQUARES, "masks": MASKS, "costs": COSTS} | change
    with pytest.raises(SettingsError, match=word):
        readjust(**given)  # type: ignore[arg-type]
