"""Mixed precision: what stays float32, what it costs in accuracy, and how "auto" is decided and remembered."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedlite import autocast, models
from fedlite.autocast import Rates, recorded, resolve
from fedlite.errors import SettingsError
from fedlite.step import at_precision, objective
from fedlite.train import evaluate, local_train
from fedlite.train_settings import TrainSettings
from fedlite.virtual import kernel
from tests.models.real import digits

PLAIN = TrainSettings(epochs=5, momentum=0.9, learning_rate=0.02)
MIXED = replace(PLAIN, autocast="bf16")


def test_products_are_bfloat16_and_all_else_float32() -> None:
    model, seen = models.build("small_cnn"), list[torch.dtype]()
    model.output.register_forward_hook(lambda _, __, logits: seen.append(logits.dtype))
    weights = {name: value.requires_grad_() for name, value in model.state_dict(keep_vars=True).items()}
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    loss, _ = at_precision(objective, MIXED)(model, weights, {}, x, y, None)
    slopes: tuple[Tensor, ...] = torch.autograd.grad(loss, list(weights.values()))
    assert seen == [torch.bfloat16]
    assert loss.dtype == torch.float32
    assert {slope.dtype for slope in slopes} == {torch.float32}
    assert at_precision(objective, PLAIN) is objective


def test_mixed_precision_learns_as_much() -> None:
    """Within two points, in either direction; and not the same bytes."""
    data, test, model = digits("train"), digits("test"), models.build("small_cnn")
    start = models.initial_params(model, 0)
    exact, mixed = (local_train(model, start, data.x, data.y, how, seed=0).params for how in (PLAIN, MIXED))
    accuracy = [evaluate(model, params, test.x, test.y)["accuracy"] for params in (exact, mixed)]
    assert min(accuracy) > 0.94
    assert abs(accuracy[1] - accuracy[0]) <= 0.02
    assert any((exact[name] != mixed[name]).any() for name in exact)
    assert all(value.dtype == np.float32 for value in mixed.values())


def test_training_is_as_deterministic() -> None:
    data, model = digits("train").take(np.arange(64)), models.build("small_cnn")
    start = models.initial_params(model, 0)
    first, second = (local_train(model, start, data.x, data.y, MIXED, seed=0).params for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_the_faster_is_chosen_if_it_is_much_faster() -> None:
    """bfloat16 must take less than 1 / 1.1 of the time."""
    assert Rates(1.0, 0.5).choice == "bf16"
    assert Rates(1.0, 0.92).choice == "off"
    assert Rates(1.0, 4.0).choice == "off"
    assert Rates(1.0, float("inf")).choice == "off"


def test_auto_measures_once_and_then_trains_as_recorded(tmp_path: Path) -> None:
    """What is measured here is not known; what is recorded decides, whatever it says."""
    data, model = digits("train").take(np.arange(40)), models.build("small_cnn")
    auto = replace(PLAIN, autocast="auto")
    first = resolve(model, data.x, data.y, auto, folder=tmp_path)
    [file] = tmp_path.iterdir()
    rates = recorded(file)
    assert rates is not None
    assert first == replace(PLAIN, autocast=rates.choice)  # type: ignore[arg-type]
    for found in ({"off": 2.0, "bf16": 1.0}, {"off": 1.0, "bf16": 2.0}):
        file.write_text(json.dumps(found))
        decided = resolve(model, data.x[:35], data.y[:35], auto, folder=tmp_path)
        assert decided.autocast == ("bf16" if found["bf16"] == 1 else "off")
    file.write_text("{damaged")
    assert resolve(model, data.x, data.y, auto, folder=tmp_path).autocast in ("off", "bf16")
    assert recorded(file) is not None
    resolve(model, data.x, data.y, replace(auto, batch_size=8), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "another batch is another measurement"


def test_what_was_decided_is_left_and_integers_are_off() -> None:
    model, (x, y) = models.build("small_cnn"), (np.zeros((1, 1, 8, 8), np.float32), np.zeros(1, np.int64))
    for how in (PLAIN, MIXED):
        assert resolve(model, x, y, how) is how
    aware = replace(PLAIN, bits=8, autocast="auto")
    assert resolve(model, x, y, aware) == replace(aware, autocast="off")
    assert autocast.measured(model, x, y, PLAIN, "cpu").off > 0


def test_what_cannot_be_is_refused() -> None:
    model, data = models.build("small_cnn"), digits("train").take(np.arange(4))
    auto = replace(PLAIN, autocast="auto")
    with pytest.raises(SettingsError, match=r"autocast\.resolve"):
        local_train(model, models.params_of(model), data.x, data.y, auto, seed=0)
    with pytest.raises(SettingsError, match="8 bits round"):
        replace(MIXED, bits=8)
    with pytest.raises(SettingsError, match="off, auto or bf16"):
        replace(PLAIN, autocast="fp8")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="device"):
        resolve(model, data.x, data.y, auto, device="tpu")
    assert "autocast" in (kernel.supports(model, MIXED) or "")
