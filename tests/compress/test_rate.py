"""The rate controller on updates of real training: what fits, how near, and what is owed."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite import models
from fedlite.compress import rate
from fedlite.compress.codec import Codec, encode_with_feedback, payload_size
from fedlite.compress.presets import codec_by_name
from fedlite.compress.prune import magnitude_masks
from fedlite.compress.rate import COARSEST, FINEST, MOST_TRIES, choose, fit, with_deviations
from fedlite.compress.step import Step
from fedlite.errors import SettingsError, UpdateError
from fedlite.tensors import add, apply_masks, zeros_like
from fedlite.train import local_train
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Update

MODELS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"hidden": (64,)},
    "small_cnn": {},
    "mobilenet_v2": {"width": 0.25},
}
SMALL = codec_by_name("sparse")


@cache
def trained(name: str, data_dir: Path) -> Update:
    """What a model of that name learned from 60 images of clothes."""
    images = np.load(data_dir / "fashion_mnist" / "fashion_mnist.npz")
    x, y = images["x_train"][:60].reshape(-1, 1, 28, 28).astype(np.float32) / 255, images["y_train"][:60]
    model = models.build(name, input_shape=(1, 28, 28), **MODELS[name])
    params = models.initial_params(model, 1)
    settings = TrainSettings(learning_rate=0.05, batch_size=20)
    learned = local_train(model, params, x, y.astype(np.int64), settings, seed=1).params
    return {key: (learned[key] - value).astype(np.float32) for key, value in params.items()}


@pytest.fixture
def update(data_dir: Path) -> Update:
    return trained("mlp", data_dir)


def norm(update: Update) -> float:
    return float(np.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in update.values())))


@pytest.mark.parametrize("name", MODELS)
def test_a_larger_budget_is_used_and_leaves_a_smaller_error(name: str, data_dir: Path) -> None:
    """Of budgets from a tenth of the preset's bytes to twice as many, at least 97 % are used, and never more."""
    update = trained(name, data_dir)
    usual = len(SMALL.encode(update))
    errors, steps = [], []
    for part in (0.1, 0.2, 0.4, 0.8, 1.2, 2.0):
        budget = max(int(part * usual), 400)
        payload, rest, deviations = fit(SMALL, update, None, budget)
        assert 0.97 * budget <= len(payload) <= budget
        errors.append(norm(rest))
        steps.append(deviations)
    assert errors == sorted(errors, reverse=True)
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize("name", ["linear", "small_cnn"])
def test_far_from_the_usual_step_it_is_used_too(name: str, data_dir: Path) -> None:
    """Where sizes are no power of the step: at least 90 % of a budget, whatever it is."""
    codec, update = codec_by_name("small"), trained(name, data_dir)
    usual = len(codec.encode(update, generator=np.random.default_rng(0)))
    for part in np.geomspace(0.1, 1.1, 15):
        budget = max(int(part * usual), 400)
        payload = fit(codec, update, None, budget, generator=np.random.default_rng(0))[0]
        assert 0.9 * budget <= len(payload) <= budget


@pytest.mark.parametrize("spare", [150, 300, 1000, 5000, 20_000])
@pytest.mark.parametrize("name", ["sparse", "small"])
def test_where_most_is_what_no_step_makes_smaller_half_as_fine_as_can_be_at_the_worst(
    name: str, spare: int
) -> None:
    """33000 bytes of statistics, 30000 (d / 2)^-1.7 of weights: what fits begins at 2 (30000 / spare)^(1 / 1.7)."""

    def size_of(codec: Codec) -> int:
        assert isinstance(codec.serializer, Step)
        return int(33_000 + 30_000 * (codec.serializer.deviations / 2) ** -1.7)

    chosen = choose(codec_by_name(name), 33_000 + spare, size_of)
    assert chosen.payload_bytes <= 33_000 + spare
    assert chosen.deviations <= 2 * 2 * (30_000 / spare) ** (1 / 1.7)


@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
def test_it_is_the_codec_with_that_step_and_what_does_not_fit_is_owed(update: Update, masked: bool) -> None:
    masks = magnitude_masks(update, 0.5) if masked else {}
    owed = {key: 0.3 * value for key, value in update.items()}
    payload, rest, deviations = fit(SMALL, update, owed, 2000, masks=masks)
    want = encode_with_feedback(with_deviations(SMALL, deviations), update, owed, masks=masks)
    assert payload == want[0]
    for key, value in SMALL.decode(payload, update, masks=masks).items():
        whole = apply_masks(add(update, owed), masks)[key]
        np.testing.assert_allclose(value + rest[key], whole, atol=1e-6 * float(np.abs(whole).max()))


def test_the_smallest_that_works_is_named_and_works(update: Update) -> None:
    with pytest.raises(SettingsError, match="90 bytes is too small for this update: the smallest") as refused:
        fit(SMALL, update, None, 90, overhead=30)
    smallest = int(str(refused.value).split("smallest that works is ")[1].split()[0])
    payload, _, deviations = fit(SMALL, update, None, smallest, overhead=30)
    assert len(payload) + 30 <= smallest
    assert deviations == COARSEST
    with pytest.raises(SettingsError, match=f"smallest that works is {smallest} bytes"):
        fit(SMALL, update, None, smallest - 1, overhead=30)
    with pytest.raises(SettingsError, match=f"smallest that works is {smallest} bytes"):
        fit(SMALL, update, None, 20, overhead=30)  # less than the overhead alone


def test_a_budget_for_anything_gets_the_finest(update: Update) -> None:
    assert fit(SMALL, update, None, 10**9)[2] == FINEST
    zeros = {key: np.zeros_like(value) for key, value in update.items()}
    payload, rest, _ = fit(SMALL, zeros, None, 10**6)
    assert len(payload) == len(SMALL.encode(zeros))
    assert norm(rest) == 0


def test_at_most_so_many_tries(update: Update, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def counted(*args: Any, **more: Any) -> int:
        tries[-1] += 1
        return payload_size(*args, **more)

    monkeypatch.setattr(rate, "payload_size", counted)
    for budget in np.geomspace(200, 40_000, 15).astype(int).tolist():
        tries.append(0)
        fit(SMALL, update, None, budget)
    assert max(tries) <= MOST_TRIES
    assert sum(tries) / len(tries) < 5


@pytest.mark.parametrize(
    "name",
    ["topk:0.2+step:2+ans", "randomk:0.3+step:2+ans", "lowrank:2+step:2+ans", "exact", "step:2+zstd:3"],
)
def test_whatever_is_around_the_step(name: str, update: Update) -> None:
    """With what filters remember, and what they draw: the same draws at every try and in the end."""
    codec, owed = codec_by_name(name), None
    for round_num in range(3):
        chance = np.random.default_rng(round_num)
        budget = 3 * len(codec.encode(update, generator=np.random.default_rng(0))) // 4
        payload, rest, deviations = fit(codec, update, owed, budget, generator=chance)
        again = with_deviations(codec, deviations)
        want = encode_with_feedback(again, update, owed, generator=np.random.default_rng(round_num))
        assert len(payload) <= budget
        assert payload == want[0]
        assert_equal(rest, want[1])
        assert_equal(codec.decode(payload, update), again.decode(payload, update))
        owed = rest


def assert_equal(got: Update, want: Update) -> None:
    assert got.keys() == want.keys()
    for key, value in want.items():
        np.testing.assert_array_equal(got[key], value)


def test_error_feedback_makes_up_for_a_narrow_link(update: Update) -> None:
    """The same update every round in a fifth of the preset's bytes: what arrived in all comes near what was sent."""
    owed: dict[str, Array] | None = None
    arrived, away = zeros_like(update), []
    for sent in range(1, 21):
        payload, owed, _ = fit(SMALL, update, owed, 900)
        arrived = add(arrived, SMALL.decode(payload, update))
        short = {key: value - sent * update[key] for key, value in arrived.items()}
        away.append(norm(short) / norm(update) / sent)
    assert away[-1] < 0.7
    assert away[0] > 0.85


@pytest.mark.parametrize("name", ["int8", "float32", "plain", "topk:0.1+int8+zstd:1"])
def test_a_codec_without_a_step_is_refused_with_those_that_have_one(name: str, update: Update) -> None:
    with pytest.raises(SettingsError, match="small or smallest"):
        fit(codec_by_name(name), update, None, 10**6)


def test_what_cannot_be_sent_is_refused_as_ever(update: Update) -> None:
    with pytest.raises(UpdateError, match="NaN or infinity"):
        fit(SMALL, {key: np.full_like(value, np.nan) for key, value in update.items()}, None, 5000)
    with pytest.raises(UpdateError, match="residual"):
        fit(SMALL, update, {"other": np.zeros(3, np.float32)}, 5000)


def test_nothing_to_send() -> None:
    empty: dict[str, Array] = {}
    payload, rest, _ = fit(Codec((), SMALL.serializer, SMALL.compressors), empty, None, 100)
    assert SMALL.decode(payload, empty) == rest == {}
