"""Schedules follow their equations; masks change in their rounds only, and what is pruned stays so."""

import itertools
from typing import Any

import numpy as np
import pytest

from fedlite.compress.masks import mask_id
from fedlite.compress.prune import magnitude_masks
from fedlite.compress.schedule import Cubic, Gradual, OneShot, Pruner
from fedlite.errors import SettingsError
from fedlite.types import Array, Masks


def drawn(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: np.float32(rng.standard_normal((20, 10))) for name in ("a.weight", "b.weight")}


def live(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def test_the_cubic_by_hand() -> None:
    """s_f = 0.8, s_i = 0, rounds 2, 4, 6, 8, 10: 0.8 (1 − (1 − k/4)³) = 0, 0.4625, 0.7, 0.7875, 0.8."""
    schedule = Cubic(0.8, begin=2, end=10, every=2)
    wanted = [0, 0, 0, 0, 0.4625, 0.4625, 0.7, 0.7, 0.7875, 0.7875, 0.8, 0.8]
    assert [schedule.sparsity(t) for t in range(12)] == pytest.approx(wanted)
    assert [t for t in range(14) if schedule.due(t, {})] == [2, 4, 6, 8, 10]


def test_the_cubic_from_an_initial_sparsity() -> None:
    """0.9 + (0.5 − 0.9) · 0.5³ = 0.85 half way."""
    schedule = Cubic(0.9, begin=0, end=2, initial=0.5)
    assert [schedule.sparsity(t) for t in range(3)] == pytest.approx([0.5, 0.85, 0.9])


def run(pruner: Pruner, rounds: int) -> list[Masks]:
    """Masks after each round; weights are other ones each time, pruned ones 0."""
    held: Masks = {}
    found = []
    for round_num in range(rounds):
        params = {n: v * held[n] if n in held else v for n, v in drawn(round_num).items()}
        held = pruner.masks(round_num, params, held)
        found.append(held)
    return found


def test_gradual_pruning() -> None:
    """Of 400 weights round(400 s) go, 185 at 0.4625, 280, 315 and 320; between, the same masks; none comes back."""
    found = run(Gradual(Cubic(0.8, begin=2, end=10, every=2)), 13)
    assert found[:4] == [{}] * 4
    assert [400 - live(masks) for masks in found[4:]] == [185, 185, 280, 280, 315, 315, 320, 320, 320]
    for before, after in itertools.pairwise(found[4:]):
        assert all(not (after[name] & ~before[name]).any() for name in after)
    assert [mask_id(masks) for masks in found] == [
        mask_id(masks) for masks in run(Gradual(Cubic(0.8, 2, 10, 2)), 13)
    ]


def test_one_shot_is_done_once() -> None:
    found = run(Gradual(OneShot(0.5, at_round=3)), 6)
    assert found[:3] == [{}] * 3
    assert live(found[3]) == 200
    assert len({mask_id(masks) for masks in found[3:]}) == 1
    assert mask_id(found[3]) == mask_id(magnitude_masks(drawn(3), 0.5))
    late = Gradual(OneShot(0.5, at_round=3)).masks(7, drawn(0), {})
    assert mask_id(late) == mask_id(magnitude_masks(drawn(0), 0.5))


def test_constant_from_before_the_first_round() -> None:
    found = run(Gradual(OneShot(0.5)), 3)
    assert [live(masks) for masks in found] == [200] * 3
    assert run(Gradual(OneShot(0.0)), 3) == [{}] * 3


def test_each_layer_to_its_own() -> None:
    """a goes to 0.9, b to 0.3; half way in 0.7 / 0.8 of them: 157.5 and 52.5, rounded to even, of 200 each."""
    table = (("a", 0.9), ("b", 0.3))
    found = run(Gradual(Cubic(0.8, 0, 4, 2), table=table), 5)
    assert [200 - int(found[2][n].sum()) for n in ("a.weight", "b.weight")] == [158, 52]
    assert [200 - int(found[4][n].sum()) for n in ("a.weight", "b.weight")] == [180, 60]


def test_layers_to_leave_alone() -> None:
    found = run(Gradual(OneShot(0.5), keep=("b",)), 1)
    assert list(found[0]) == ["a.weight"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: OneShot(1.0),
        lambda: OneShot(-0.5),
        lambda: OneShot(0.5, at_round=-1),
        lambda: Cubic(1.0, 0, 4),
        lambda: Cubic(0.5, 4, 4),
        lambda: Cubic(0.5, -1, 4),
        lambda: Cubic(0.5, 0, 5, every=2),
        lambda: Cubic(0.5, 0, 4, every=0),
        lambda: Cubic(0.5, 0, 4, initial=0.6),
        lambda: Cubic(float("nan"), 0, 4),
    ],
)
def test_schedules_that_cannot_be(make: Any) -> None:
    with pytest.raises(SettingsError):
        make()
