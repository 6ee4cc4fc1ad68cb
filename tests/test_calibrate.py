"""Post-training quantization: ranges by hand, and what it costs a network trained in float32 on real data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedlite import models
from fedlite.calibrate import quantize_static
from fedlite.compress import quantize
from fedlite.compress.integer import to_integer
from fedlite.errors import DataError, SettingsError, UpdateError
from fedlite.models.registry import resolve
from fedlite.tensors import subtract
from fedlite.train import TrainSettings, evaluate, local_train, predict
from fedlite.types import Array
from tests.models.real import fashion

SMALL = resolve("linear", {"input_shape": (2,), "num_classes": 1})
HAND: dict[str, Array] = {"output.weight": np.float32([[1.27, -0.5]]), "output.bias": np.float32([0.3])}
SAMPLES = np.float32([[0, 1], [-0.1, 0.5], [1.5, 2.45]])


def test_a_calibrated_model_by_hand() -> None:
    """[−0.1, 2.45]: steps of .01, zero at 10. x = [1, 2]: 100 · 127 − 200 · 50 + 3000 = 5700 steps of 1e-4."""
    params = quantize_static(SMALL, HAND, SAMPLES, observer="minmax")
    assert list(params) == ["output.weight", "output.bias", "output.act_range"]
    np.testing.assert_array_equal(params["output.act_range"], np.float32([-0.1, 2.45]))
    integer = to_integer(models.build(SMALL), params)
    assert integer.run(np.float32([[1, 2]])).item() == pytest.approx(0.57, rel=1e-5)
    again = quantize_static(SMALL, params, SAMPLES * 2, observer="minmax")
    np.testing.assert_array_equal(again["output.act_range"], np.float32([-0.2, 4.9]))


@pytest.fixture(scope="module")
def lenet(data_dir: Path) -> dict[str, Array]:
    """LeNet-5 trained in float32 on 4000 images."""
    data, model = fashion(data_dir, "train", 4000), models.build("lenet5")
    how = TrainSettings(epochs=2, optimizer="adam", learning_rate=1e-3)
    return local_train(model, models.initial_params(model, 0), data.x, data.y, how, seed=0).params


@pytest.mark.parametrize(
    ("observer", "per_channel"),
    [("minmax", True), ("average:0.9", True), ("percentile:99.99", True), ("percentile:99.99", False)],
)
def test_a_float_trained_network_keeps_its_accuracy(
    observer: str, per_channel: bool, lenet: dict[str, Array], data_dir: Path
) -> None:
    """By less than half a point, of 2000 images; in whole numbers, of which the first 500 are tried, all the same."""
    test, model = fashion(data_dir, "test", 2000), models.build("lenet5")
    x = fashion(data_dir, "train", 4000).x[:200]
    params = quantize_static(models.spec_of(model), lenet, x, observer=observer)
    exact = evaluate(model, lenet, test.x, test.y)["accuracy"]
    rounding = quantize.at(model, 8, per_channel)
    assert exact - evaluate(rounding, params, test.x, test.y, bits=8)["accuracy"] < 0.005
    whole = to_integer(rounding, params).run(test.x[:500]).argmax(1)
    assert (whole == predict(rounding, params, test.x[:500], bits=8)).mean() >= 0.998


def test_four_bits_per_channel_without_training(lenet: dict[str, Array], data_dir: Path) -> None:
    """Within a point and a half."""
    test, model = fashion(data_dir, "test", 2000), models.build("lenet5")
    x = fashion(data_dir, "train", 4000).x[:200]
    params = quantize_static(models.spec_of(model), lenet, x)
    exact = evaluate(model, lenet, test.x, test.y)["accuracy"]
    assert evaluate(model, params, test.x, test.y, bits=4)["accuracy"] > exact - 0.015


def test_training_goes_on_from_a_calibrated_model(lenet: dict[str, Array], data_dir: Path) -> None:
    data, model = fashion(data_dir, "train", 4000), models.build("lenet5")
    params = quantize_static(models.spec_of(model), lenet, data.x[:200])
    trained = local_train(
        model, params, data.x[:320], data.y[:320], TrainSettings(bits=8, learning_rate=0.01), seed=0
    ).params
    assert list(trained) == list(params)
    assert any(value.any() for value in subtract(trained, params).values())


def test_models_of_norms_recurrence_and_one_dimension_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    small = {"input_shape": (3, 16, 16), "num_classes": 4, "width": 0.25, "stem_stride": 1}
    cases = [
        (resolve("mobilenet_v2", small), rng.random((8, 3, 16, 16), np.float32)),
        (resolve("mobilenet_v2", small | {"norm": "batch"}), rng.random((8, 3, 16, 16), np.float32)),
        (resolve("sensor_cnn", {}), rng.standard_normal((8, 9, 128), np.float32)),
        (resolve("char_lstm", {"hidden": 8}), rng.integers(0, 65, (8, 20))),
    ]
    for spec, x in cases:
        model = models.build(spec)
        params = models.initial_params(model, 0)
        made = quantize_static(spec, params, x)
        assert list(made) == list(models.params_of(quantize.prepare(model)))
        models.load_params(model, params)
        with torch.no_grad():
            exact = model.eval()(torch.from_numpy(x)).numpy()
        distance = np.linalg.norm(to_integer(model, made).run(x) - exact) / np.linalg.norm(exact)
        assert distance < 0.2  # many roundings, and no training that knew of them


def test_the_same_samples_give_the_same_bytes(lenet: dict[str, Array], data_dir: Path) -> None:
    x = fashion(data_dir, "train", 4000).x[:100]
    spec = resolve("lenet5", {})
    first, second = (quantize_static(spec, lenet, x) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


# --- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (SAMPLES[:0], "needs samples"),
        (np.zeros((4, 2), np.float32), "'output' meets nothing but zeros"),
        (np.full((4, 2), np.nan, np.float32), "'output': calibration met NaN"),
        (np.ones((4, 3), np.float32), "takes no samples of shape"),
    ],
)
def test_calibration_without_fit_data_is_refused(x: Array, said: str) -> None:
    with pytest.raises(DataError, match=said):
        quantize_static(SMALL, HAND, x)


def test_settings_and_params_that_cannot_work_are_refused() -> None:
    with pytest.raises(SettingsError, match="observer 'max'"):
        quantize_static(SMALL, HAND, SAMPLES, observer="max")
    for params in (
        {},
        HAND | {"output.bias": np.float32([np.nan])},
        HAND | {"output.bias": np.float32([1, 2])},
    ):
        with pytest.raises(UpdateError):
            quantize_static(SMALL, params, SAMPLES)
