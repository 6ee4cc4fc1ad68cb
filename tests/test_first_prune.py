"""One client finds a small model that has learned its data, and sparse training goes on from there."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedlite.compress.masks import mask_id
from fedlite.compress.prune import prunable
from fedlite.compress.prunefl import Costs
from fedlite.compress.rigl import RigL
from fedlite.errors import SettingsError
from fedlite.first_prune import FirstPrune, first_prune
from fedlite.gradients import dense_gradients
from fedlite.models import build
from fedlite.models.bridge import initial_params
from fedlite.tensors import apply_masks
from fedlite.train import TrainSettings, evaluate, local_train
from fedlite.types import Masks

SETTINGS = TrainSettings(epochs=1, batch_size=16, learning_rate=0.1)


def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return np.float32(data.images[:, None] / 16), data.target.astype(np.int64)


@pytest.fixture(scope="module")
def found() -> FirstPrune:
    model, (x, y) = build("small_cnn"), digits()
    costs = Costs(20_000, {"*": 1.0})
    return first_prune(
        model, initial_params(model, 1), x[:500], y[:500], SETTINGS, seed=2, costs=costs, most_times=25
    )


def test_the_model_is_small_and_right(found: FirstPrune) -> None:
    """Fewer than half of 46,512 weights live, all others are exactly zero, and unseen digits are read."""
    x, y = digits()
    assert found.live[-1] < 46_512 / 2
    assert found.live[-1] == sum(int(mask.sum()) for mask in found.masks.values())
    for name, mask in found.masks.items():
        assert not found.params[name][~mask].any()
    assert evaluate(build("small_cnn"), found.params, x[500:], y[500:])["accuracy"] > 0.84


def test_the_same_seed_finds_the_same(found: FirstPrune) -> None:
    model, (x, y) = build("small_cnn"), digits()
    params, costs = initial_params(model, 1), Costs(20_000, {"*": 1.0})
    one, two = (
        first_prune(model, params, x[:60], y[:60], SETTINGS, seed=2, costs=costs, most_times=2)
        for _ in range(2)
    )
    assert len(one.live) == 2
    assert mask_id(one.masks) == mask_id(two.masks)


def test_masks_that_move_learn() -> None:
    """RigL at 0.8 over six rounds: the sparsity stays, what lives changes, and the digits are learned."""
    model, (x, y) = build("small_cnn"), digits()
    pruner = RigL(0.8, end=7, seed=3)
    params = initial_params(model, 1)
    held: Masks = pruner.masks(0, params, {})
    params, first = apply_masks(params, held), held
    for round_num in range(1, 9):
        params = local_train(model, params, x[:1000], y[:1000], SETTINGS, seed=round_num, masks=held).params
        slopes = (
            dense_gradients(model, params, x[:300], y[:300], held)
            if pruner.wants_gradients(round_num)
            else None
        )
        moved = pruner.masks(round_num, params, held, slopes)
        params = apply_masks(params, moved)
        grown = {name: moved[name] & ~held[name] for name in held}
        assert not any(params[name][mask].any() for name, mask in grown.items())  # they begin at zero
        held = moved
    weights = sum(value.size for name, value in params.items() if prunable(name, value))
    assert sum(int(mask.sum()) for mask in held.values()) == pytest.approx(0.2 * weights, abs=3)
    assert sum(int((first[n] & ~held[n]).sum()) for n in held) > 500
    assert evaluate(model, params, x[1200:], y[1200:])["accuracy"] > 0.8


def test_a_cost_for_a_layer_that_is_not_there() -> None:
    model, (x, y) = build("small_cnn"), digits()
    with pytest.raises(SettingsError, match=r"features\.9"):
        first_prune(
            model,
            initial_params(model, 1),
            x[:20],
            y[:20],
            SETTINGS,
            seed=1,
            costs=Costs(1, {"features.9": 1, "*": 1}),
        )
