"""A teacher in a simulation: asked once for shared samples, and the kernel learns from it what torch learns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite import models
from fedlite.compress.prune import magnitude_masks
from fedlite.compress.quantize import prepare
from fedlite.errors import DataError, SettingsError
from fedlite.train import TrainSettings, local_train
from fedlite.types import Array
from fedlite.virtual.kernel import train_cohort
from fedlite.virtual.lessons import taught
from fedlite.virtual.samples import Picked, Taken

SETTINGS = TrainSettings(epochs=2, batch_size=8, momentum=0.5, distill_alpha=0.3, temperature=4.0)
X = np.random.default_rng(1).random((40, 1, 9, 9)).astype(np.float32)
Y = np.random.default_rng(2).integers(0, 10, 40)
LOGITS = np.random.default_rng(3).normal(0, 5, (40, 10)).astype(np.float32)
PLACES = [np.arange(0, 19), np.array([39, 3, 7]), np.arange(19, 40)]


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("shared", [True, False], ids=["one array", "own arrays"])
def test_the_kernel_learns_from_a_teacher_as_torch_does(bits: int, shared: bool) -> None:
    model = models.build("cnn", input_shape=(1, 9, 9))
    model = prepare(model) if bits == 8 else model
    params = models.initial_params(model, 3)
    settings, masks = replace(SETTINGS, bits=bits), magnitude_masks(params, 0.5)
    whole = [Picked(X, Y, places, LOGITS) for places in PLACES]
    data = whole if shared else [each.taken() for each in whole]
    done = train_cohort(model, params, data, settings, seeds=range(3), masks=masks)
    for seed, places in enumerate(PLACES):
        alone = local_train(
            model, params, X[places], Y[places], settings, seed=seed, masks=masks, teacher=LOGITS[places]
        )
        assert done[seed].loss == pytest.approx(alone.loss, rel=1e-4)
        for name, value in alone.params.items():
            atol = (1e-5 if bits == 32 else 1e-2) * np.abs(value).max()
            np.testing.assert_allclose(done[seed].params[name], value, rtol=0, atol=atol, err_msg=name)


def test_labels_alone_are_what_they_were() -> None:
    """With alpha 1 the teacher is not looked at."""
    model = models.build("mlp", input_shape=(1, 9, 9))
    params, plain = models.initial_params(model, 3), replace(SETTINGS, distill_alpha=1.0)
    with_teacher = train_cohort(model, params, [Picked(X, Y, PLACES[0], LOGITS)], plain, seeds=[0])
    without = train_cohort(model, params, [Picked(X, Y, PLACES[0])], plain, seeds=[0])
    assert all((with_teacher[0].params[name] == value).all() for name, value in without[0].params.items())


def test_a_teacher_that_is_missing_or_of_other_classes() -> None:
    model = models.build("mlp", input_shape=(1, 9, 9))
    params = models.initial_params(model, 3)
    with pytest.raises(SettingsError, match="teacher"):
        train_cohort(model, params, [Picked(X, Y, PLACES[0])], SETTINGS, seeds=[0])
    with pytest.raises(DataError, match=r"\(40, 10\)"):
        train_cohort(model, params, [Picked(X, Y, PLACES[0], LOGITS[:, :9].copy())], SETTINGS, seeds=[0])


def test_shared_samples_are_asked_about_once() -> None:
    asked: list[int] = []

    def ask(x: NDArray[Any]) -> Array:
        asked.append(len(x))
        return np.full((len(x), 2), x.reshape(len(x), -1).sum(1)[:, None], np.float32)

    share = taught(lambda client: Picked(X, Y, PLACES[client]), ask)
    first, second = share(0), share(1)
    assert asked == [40]
    assert first.teacher is second.teacher
    taken = second.taken()
    np.testing.assert_allclose(taken.teacher, taken.x.reshape(3, -1).sum(1)[:, None].repeat(2, 1), rtol=1e-6)
    own = taught(lambda client: (X[:4], Y[:4]), ask)(0)
    assert asked == [40, 4]
    assert isinstance(own.taken(), Taken)
