"""The compiled forward pass gives what `fedlite.train.evaluate` gives, by however many threads."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fedlite import models
from fedlite.compress.prune import magnitude_masks
from fedlite.compress.quantize import prepare
from fedlite.errors import DataError, SettingsError, UpdateError
from fedlite.train import TrainSettings, evaluate, local_train
from fedlite.types import Params
from fedlite.virtual import kernel

FAMILIES: dict[str, dict[str, Any]] = {
    "mlp": {"input_shape": (3, 5, 7), "hidden": (33, 20)},
    "pooled_cnn": {"input_shape": (2, 13, 12), "channels": (5, 18)},
    "cnn": {"input_shape": (1, 9, 9)},
}


def examples(name: str, count: int = 75) -> tuple[NDArray[Any], NDArray[Any]]:
    random, shape = np.random.default_rng(5), FAMILIES[name]["input_shape"]
    return random.random((count, *shape), np.float32), random.integers(0, 10, count)


def trained(name: str, bits: int) -> tuple[nn.Module, Params]:
    """With activation ranges that were measured."""
    model = models.build(name, **FAMILIES[name])
    model = prepare(model) if bits == 8 else model
    settings = TrainSettings(batch_size=25, learning_rate=0.05, bits=bits)
    return model, local_train(
        model, models.initial_params(model, 3), *examples(name), settings, seed=1
    ).params


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_torch_to_rounding(name: str, bits: int, pruned: bool) -> None:
    """At 8 bits a sum's last bit may decide a rounding: one step of 255, of one activation."""
    model, params = trained(name, bits)
    masks = magnitude_masks(params, 0.5) if pruned else None
    x, y = examples(name)
    got = kernel.evaluate(model, params, x, y, bits=bits, masks=masks)
    wanted = evaluate(model, params, x, y, bits=bits, masks=masks)
    assert list(got) == list(wanted)
    assert got["loss"] == pytest.approx(wanted["loss"], rel=1e-5 if bits == 32 else 1e-4)
    assert got["accuracy"] == wanted["accuracy"]


def test_a_layer_without_a_range_takes_its_input_as_it_is() -> None:
    model, params = trained("mlp", 32)
    model = prepare(model)
    params = {**models.initial_params(model, 3), **params}
    x, y = examples("mlp")
    wanted = evaluate(model, params, x, y, bits=8)
    assert kernel.evaluate(model, params, x, y, bits=8) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("bits", [32, 8])
def test_threads_change_no_bit(bits: int) -> None:
    model, params = trained("pooled_cnn", bits)
    x, y = examples("pooled_cnn", 300)
    results = [kernel.evaluate(model, params, x, y, bits=bits, threads=threads) for threads in (1, 2, 5)]
    assert results[0] == results[1] == results[2]


def test_one_example_whose_loss_is_known() -> None:
    """Logits 1 and 3 for class 1: the loss is ln(1 + e⁻²)."""
    model = nn.Sequential(nn.Linear(2, 2))
    params = {"0.weight": np.array([[1, 0], [0, 1]], np.float32), "0.bias": np.zeros(2, np.float32)}
    x, y = np.array([[1, 3]], np.float32), np.array([1])
    got = kernel.evaluate(model, params, x, y)
    assert got == {"loss": pytest.approx(np.log1p(np.exp(-2)), rel=1e-6), "accuracy": 1.0}


def test_what_it_cannot_test_and_what_does_not_fit_is_refused() -> None:
    odd = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
    assert "Tanh" in str(kernel.supports_evaluation(odd))
    with pytest.raises(SettingsError, match="test with torch"):
        kernel.evaluate(odd, {}, torch.zeros(1, 4).numpy(), np.zeros(1, np.int64))
    model, params = trained("mlp", 32)
    assert kernel.supports_evaluation(model) is None
    assert kernel.supports_evaluation(model, 4) == "weights have 4 bits"
    x, y = examples("mlp")
    for data in [(x[:0], y[:0]), (x, y[1:]), (x[:, :1], y), (x.astype(np.float64), y), (x, y + 10)]:
        with pytest.raises(DataError):
            kernel.evaluate(model, params, *data)
    with pytest.raises(UpdateError):
        kernel.evaluate(model, {"output.bias": params["output.bias"]}, x, y)
