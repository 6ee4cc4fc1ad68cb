"""Rounding is that of the papers and of torch, and the int8-aware forward is the integer model's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.func import vmap

from fedlite import models
from fedlite.compress import quantize
from fedlite.compress.integer import FORMAT, IntegerLayer, IntegerModel, to_integer
from fedlite.compress.prune import magnitude_masks
from fedlite.data.base import Dataset
from fedlite.errors import SettingsError, UpdateError
from fedlite.train import TrainSettings, evaluate, local_train
from fedlite.types import Array
from tests.models.real import digits, fashion

floats = st.floats(-1e4, 1e4, width=32)


# --- grids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (0.0, 255.0, 1.0, 0),
        (-1.0, 4.1, 5.1 / 255, 50),  # 1 / 0.02
        (-255.0, 0.0, 1.0, 255),
        (2.0, 5.1, 0.02, 0),  # widened down to 0
        (-5.1, -2.0, 0.02, 255),  # widened up to 0
        (0.0, 0.0, 1.0, 0),  # nothing measured
    ],
)
def test_activation_grid_by_hand(low: float, high: float, scale: float, zero_point: int) -> None:
    grid = quantize.activation_grid(torch.tensor([low, high]))
    assert grid.scale.item() == pytest.approx(scale, rel=1e-6)
    assert grid.zero_point.item() == zero_point


@settings(deadline=None)
@given(floats, floats)
def test_zero_is_on_every_activation_grid_and_a_value_moves_half_a_step_at_most(a: float, b: float) -> None:
    """Half a step for rounding, half for the shift that puts zero on the grid."""
    low, high = min(a, b), max(a, b)
    grid = quantize.activation_grid(torch.tensor([low, high]))
    assert quantize.fake_quantize(torch.zeros(1), grid).item() == 0
    values = torch.linspace(low, high, 50)
    error = (quantize.fake_quantize(values, grid) - values).abs().max()
    assert error <= grid.scale * 1.001 + abs(high - low) * 1e-6


@settings(deadline=None)
@given(st.lists(floats, min_size=1, max_size=20), floats, floats)
def test_fake_quantization_of_activations_is_torchs(values: list[float], a: float, b: float) -> None:
    """Away from ties, where torch multiplies by 1/scale; gradients pass where the value is on the grid."""
    assume(max(a, b) - min(a, b) > 1e-6)
    grid = quantize.activation_grid(torch.tensor([min(a, b), max(a, b)]))
    x = torch.tensor(values)
    ties = ((x / grid.scale) % 1 - 0.5).abs() < 1e-2
    x = torch.where(ties, torch.zeros_like(x), x).requires_grad_()
    ours = quantize.fake_quantize(x, grid)
    (gradient,) = torch.autograd.grad(ours.sum(), x)
    theirs = torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero_point.int(), 0, 255)
    (expected,) = torch.autograd.grad(theirs.sum(), x)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(gradient, expected)


def test_fake_quantization_of_weights_is_torchs() -> None:
    """Symmetric per output channel; the largest weight of each channel is exactly ±127 steps."""
    weight = torch.tensor(np.random.default_rng(0).standard_normal((6, 3, 5, 5)).astype(np.float32))
    grid = quantize.weight_grid(weight, None, torch.tensor(1.0))
    torch.testing.assert_close(grid.scale.flatten(), weight.abs().amax((1, 2, 3)) / 127)
    zeros = torch.zeros(6, dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(weight, grid.scale.flatten(), zeros, 0, -127, 127)
    torch.testing.assert_close(quantize.fake_quantize(weight, grid), theirs)
    assert quantize.to_steps(weight, grid).abs().amax((1, 2, 3)).tolist() == [127] * 6


def test_halves_round_to_even_and_outside_goes_to_the_end() -> None:
    grid = quantize.activation_grid(torch.tensor([0.0, 255.0]))
    steps = quantize.to_steps(torch.tensor([0.5, 1.5, 2.5, -3.0, 300.0]), grid)
    assert steps.tolist() == [0, 2, 2, 0, 255]


def test_channels_without_weights_leave_room_for_their_bias() -> None:
    """An empty channel with bias 3 and one of weights of 1e-12: both biases fit int32 and keep their value."""
    weight, bias = torch.tensor([[0.0, 0.0], [1e-12, 0.0], [0.0, 0.0]]), torch.tensor([3.0, -5.0, 0.0])
    inputs = quantize.activation_grid(torch.tensor([0.0, 2.55]))
    grid = quantize.bias_grid(quantize.weight_grid(weight, bias, inputs.scale), inputs)
    assert quantize.to_steps(bias, grid).abs().max() <= 2**30
    torch.testing.assert_close(quantize.fake_quantize(bias, grid), bias)


# --- the int8-aware module -----------------------------------------------------------------------------------


def test_prepare_adds_a_range_per_layer_and_is_undone() -> None:
    model = models.build("small_cnn")
    prepared = quantize.prepare(model)
    layers = ("features.0", "features.2", "hidden", "output")
    want = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias", "act_range")]
    assert list(models.params_of(prepared)) == want
    assert models.spec_of(prepared) == models.spec_of(model)
    assert list(models.params_of(quantize.prepare(prepared))) == want
    assert list(models.params_of(quantize.at(prepared, 32))) == list(models.params_of(model))
    assert not quantize.is_prepared(model)
    with pytest.raises(SettingsError, match="bits is 1"):
        quantize.at(model, 1)
    with pytest.raises(SettingsError, match="no Linear"):
        quantize.prepare(nn.Sequential(nn.ReLU()))


def test_lstm_and_embedding_stay_float() -> None:
    names = list(models.params_of(quantize.prepare(models.build("char_lstm", hidden=4))))
    assert [name for name in names if name.endswith("act_range")] == ["output.act_range"]


def test_ranges_move_in_training_only() -> None:
    layer = quantize.prepare(nn.Sequential(nn.Linear(2, 1)))
    layer(torch.tensor([[-1.0, 3.0]]))
    assert models.params_of(layer)["0.act_range"].tolist() == [-1, 3]
    layer(torch.tensor([[0.0, 13.0]]))
    np.testing.assert_allclose(models.params_of(layer)["0.act_range"], [-0.9, 4.0], rtol=1e-6)
    layer.eval()(torch.tensor([[-50.0, 50.0]]))
    np.testing.assert_allclose(models.params_of(layer)["0.act_range"], [-0.9, 4.0], rtol=1e-6)


def test_an_input_without_a_range_passes_as_it_is() -> None:
    layer = quantize.prepare(nn.Sequential(nn.Linear(1, 1, bias=False))).eval()
    models.load_params(layer, {"0.weight": np.float32([[1]]), "0.act_range": np.float32([0, 0])})
    assert layer(torch.tensor([[0.123456]])).item() == pytest.approx(0.123456, rel=1e-6)


def test_fake_quantization_batches_over_clients() -> None:
    ranges = torch.tensor([[0.0, 1.0], [-2.0, 2.0], [0.0, 0.0]])
    x = torch.linspace(-2, 2, 30).reshape(3, 10)
    one = lambda x, r: quantize.fake_quantize(x, quantize.activation_grid(r))  # noqa: E731
    torch.testing.assert_close(
        vmap(one)(x, ranges), torch.stack([one(*each) for each in zip(x, ranges, strict=True)])
    )


# --- the integer model ---------------------------------------------------------------------------------------

Trained = tuple[nn.Module, dict[str, Array]]


def trained(name: str, data: Dataset, how: TrainSettings) -> Trained:
    """The float module, and params trained int8-aware, dense and then half pruned."""
    model = models.build(name)
    params = models.initial_params(quantize.prepare(model), 0)
    params = local_train(model, params, data.x, data.y, how, seed=0).params
    masks = magnitude_masks(params, 0.5)
    return model, local_train(model, params, data.x, data.y, how, seed=1, masks=masks).params


@pytest.fixture(scope="module")
def small_cnn() -> Trained:
    return trained(
        "small_cnn", digits("train"), TrainSettings(epochs=4, momentum=0.9, learning_rate=0.05, bits=8)
    )


@pytest.fixture(scope="module")
def on_fashion(data_dir: Path) -> dict[str, Trained]:
    adam = TrainSettings(epochs=2, optimizer="adam", learning_rate=1e-3, bits=8)
    return {name: trained(name, fashion(data_dir, "train", 1500), adam) for name in ("lenet5", "2nn")}


def fake_logits(model: nn.Module, params: dict[str, Array], x: Array) -> Array:
    net = quantize.prepare(model).eval()
    models.load_params(net, params)
    with torch.no_grad():
        return net(torch.tensor(x)).numpy()


def agree(model: nn.Module, params: dict[str, Array], x: Array) -> tuple[float, float]:
    """(relative distance of the logits, share of equal answers)."""
    fake, real = fake_logits(model, params, x), to_integer(model, params).run(x)
    assert real.dtype == np.float32
    distance = float(np.linalg.norm(real - fake) / np.linalg.norm(fake))
    return distance, float((real.argmax(1) == fake.argmax(1)).mean())


def test_integer_model_agrees_with_training_on_digits(small_cnn: Trained) -> None:
    test = digits("test")
    distance, same = agree(*small_cnn, test.x)
    assert distance <= 1e-3
    assert same >= 0.995
    assert to_integer(*small_cnn).accuracy(test.x, test.y) >= 0.94


@pytest.mark.parametrize("name", ["lenet5", "2nn"])
def test_integer_model_agrees_with_training_on_fashion_mnist(
    name: str, on_fashion: dict[str, Trained], data_dir: Path
) -> None:
    test = fashion(data_dir, "test", 1000)
    model, params = on_fashion[name]
    distance, same = agree(model, params, test.x)
    assert distance <= 1e-3
    assert same >= 0.995
    aware = evaluate(model, params, test.x, test.y, bits=8)["accuracy"]
    assert abs(to_integer(model, params).accuracy(test.x, test.y) - aware) <= 0.005
    assert aware >= 0.75


def test_pruned_weights_are_zero_in_the_integer_model(small_cnn: Trained) -> None:
    model, params = small_cnn
    integer = to_integer(model, params)
    masks = magnitude_masks(params, 0.5)
    for name, mask in masks.items():
        assert not integer.tensors[name][~mask].any()


def products(weight: np.ndarray, steps: np.ndarray, stride: int, padding: int, groups: int) -> np.ndarray:
    """Convolution in int64, one output place at a time, straight from its definition; any number of dimensions."""
    outputs, width, *kernel = weight.shape
    x = np.pad(steps, [(0, 0), (0, 0)] + [(padding, padding)] * len(kernel))
    sizes = [(n - k) // stride + 1 for n, k in zip(x.shape[2:], kernel, strict=True)]
    out = np.zeros((len(x), outputs, *sizes), np.int64)
    for place in np.ndindex(*sizes):
        window = x[
            (
                slice(None),
                slice(None),
                *(slice(p * stride, p * stride + k) for p, k in zip(place, kernel, strict=True)),
            )
        ]
        for channel in range(outputs):
            first = channel // (outputs // groups) * width
            part = window[:, first : first + width].reshape(len(x), -1)
            out[(slice(None), channel, *place)] = part @ weight[channel].ravel()
    return out


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 9, 7)),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False), (2, 4, 5, 5)),
        (nn.Conv1d(6, 4, 5, stride=2, padding=2, groups=2), (3, 6, 16)),
        (nn.Conv2d(600, 2, 3, padding=1), (1, 600, 3, 3)),  # sums beyond 2^24, where float32 would round
        (nn.Linear(4000, 3), (2, 4000)),
    ],
    ids=["conv2d", "depthwise", "conv1d", "wide", "linear"],
)
def test_integer_products_are_those_of_int64(layer: nn.Module, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, layer.weight.shape, dtype=np.int8)
    zero_point = 37
    parts: dict[str, np.ndarray] = {
        "weight": weight,
        "weight_scale": np.ones(len(weight), np.float32),
        "act_scale": np.ones(1, np.float32),
        "act_zero_point": np.array([zero_point], np.uint8),
    }
    if layer.bias is not None:
        parts["bias"] = rng.integers(-(2**29), 2**29, len(weight), dtype=np.int32)
    steps = rng.integers(-zero_point, 256 - zero_point, shape)
    if isinstance(layer, nn.Linear):
        want = steps @ weight.astype(np.int64).T
    else:
        want = products(weight.astype(np.int64), steps, layer.stride[0], layer.padding[0], layer.groups)
    if "bias" in parts:
        want = want + parts["bias"].astype(np.int64).reshape(-1, *[1] * (weight.ndim - 2))
    integer = IntegerLayer(layer, parts)
    np.testing.assert_array_equal(integer.accumulate(torch.tensor(steps, dtype=torch.float64)).numpy(), want)


def test_a_whole_integer_model_by_hand() -> None:
    """Range [0, 2.55]: steps of 0.01. Weights [1.27, −0.5]: steps of 0.01, 127 and −50. Bias 0.3: 3000 of 1e-4.

    x = [1.0, 2.0]: 100 · 127 − 200 · 50 + 3000 = 5700 → 0.57.
    """
    model = models.build("linear", input_shape=(2,), num_classes=1)
    params = {
        "output.weight": np.float32([[1.27, -0.5]]),
        "output.bias": np.float32([0.3]),
        "output.act_range": np.float32([0, 2.55]),
    }
    integer = to_integer(model, params)
    assert integer.tensors["output.weight"].tolist() == [[127, -50]]
    assert integer.tensors["output.bias"].tolist() == [3000]
    assert integer.run(np.float32([[1, 2]])).item() == pytest.approx(0.57, rel=1e-6)


def test_models_with_norms_shortcuts_or_recurrence_run_too() -> None:
    """Float glue: GroupNorm, residuals, LSTM. Deep models with many roundings differ a little more: 1 %."""
    rng = np.random.default_rng(0)
    options = {"input_shape": (3, 16, 16), "num_classes": 4, "width": 0.25, "stem_stride": 1}
    cases = [
        (models.build("mobilenet_v2", **options), rng.random((8, 3, 16, 16), np.float32)),
        (models.build("sensor_cnn"), rng.standard_normal((8, 9, 128), np.float32)),
        (models.build("char_lstm", hidden=8), rng.integers(0, 65, (8, 20))),
    ]
    for model, x in cases:
        params = models.initial_params(quantize.prepare(model), 0)
        y = np.arange(8) % 4
        params = local_train(model, params, x, y, TrainSettings(bits=8, epochs=2), seed=0).params
        assert agree(model, params, x)[0] < 0.01


def test_ranges_must_have_been_measured() -> None:
    model = models.build("2nn")
    params = models.initial_params(quantize.prepare(model), 0)
    with pytest.raises(SettingsError, match=r"hidden1.*no activation range"):
        to_integer(model, params)
    with pytest.raises(UpdateError):
        to_integer(model, models.initial_params(model, 0))


# --- its file ------------------------------------------------------------------------------------------------


def test_a_file_rebuilds_the_model_and_is_a_quarter_of_float32(
    tmp_path: Path, on_fashion: dict[str, Trained], data_dir: Path
) -> None:
    model, params = on_fashion["lenet5"]
    integer = to_integer(model, params)
    path = tmp_path / "model.int8.safetensors"
    integer.save(path)
    x = fashion(data_dir, "test", 1000).x[:50]
    again = IntegerModel.load(path)
    assert again.spec == models.spec_of(model)
    np.testing.assert_array_equal(again.run(x), integer.run(x))
    assert 4 * 431_080 / path.stat().st_size > 3.9
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(SettingsError, match="cannot read"):
        IntegerModel.load(path)
    path.write_bytes(b"\x80\x04not a model")
    with pytest.raises(SettingsError, match="cannot read"):
        IntegerModel.load(path)
    save_file({"a": np.zeros(1, np.float32)}, path)
    with pytest.raises(SettingsError, match=FORMAT):
        IntegerModel.load(path)


def test_altered_tensors_are_refused(tmp_path: Path) -> None:
    model = models.build("linear", input_shape=(3,), num_classes=2)
    params = models.initial_params(model, 0) | {"output.act_range": np.float32([0, 1])}
    path = tmp_path / "model.safetensors"
    to_integer(model, params).save(path)
    good, metadata = load_file(path), {FORMAT: models.spec_of(model).to_json()}
    IntegerModel.load(path)
    weight, scale = good["output.weight"], good["output.weight_scale"]
    bad = [
        {name: value for name, value in good.items() if name != "output.bias"},
        good | {"extra": weight},
        good | {"output.weight": weight.astype(np.float32)},
        good | {"output.weight": weight[:, :2].copy()},
        good | {"output.weight": np.full_like(weight, -128)},
        good | {"output.weight_scale": -scale},
        good | {"output.act_scale": np.float32([np.nan])},
        good | {"output.bias": np.full(2, 2**31 - 1, np.int32)},
    ]
    for tensors in bad:
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(SettingsError):
            IntegerModel.load(path)
    for other in ('{"name": "linear", "options": {"hidden": 3}}', models.build("2nn").spec.to_json(), "{}"):  # type: ignore[union-attr]
        save_file(good, path, metadata={FORMAT: other})
        with pytest.raises(SettingsError):
            IntegerModel.load(path)
