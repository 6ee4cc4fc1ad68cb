"""Models are those of the papers, rebuilt by name and options, and begin from a seed alone."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedlite import models
from fedlite.compress import quantize
from fedlite.data.datasets import NAMES as DATASETS
from fedlite.errors import SettingsError, UpdateError
from fedlite.models.registry import DETECTORS, ModelSpec, resolve, skeleton

SMALL = {"mobilenet_v2": {"input_shape": (3, 32, 32), "num_classes": 10, "width": 0.25, "stem_stride": 1}}


def count(name: str, **options: object) -> int:
    """Parameters, without taking memory."""
    return sum(value.numel() for value in skeleton(resolve(name, options)).parameters())


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("2nn", {}, 199_210),  # McMahan et al. 2017, §3
        ("cnn", {}, 1_663_370),  # the same
        ("lenet_300_100", {}, 266_610),  # Han et al. 2016, Table 2
        ("lenet5", {}, 431_080),  # Han et al. 2016, Table 3
        ("mobilenet_v2", {}, 3_504_872),  # as published with torchvision's weights; BatchNorm has as many
        ("mobilenet_v2", {"width": 0.5}, 1_968_680),  # as published with timm's mobilenetv2_050
        ("linear", {}, 784 * 10 + 10),
        ("mlp", {}, (784 * 64 + 64) + (64 * 10 + 10)),
        ("mlp", {"hidden": (30, 20)}, (784 * 30 + 30) + (30 * 20 + 20) + (20 * 10 + 10)),
        ("pooled_cnn", {}, (9 * 16 + 16) + (9 * 16 * 32 + 32) + (32 * 7 * 7 * 10 + 10)),
        ("small_cnn", {}, (9 * 16 + 16) + (9 * 16 * 32 + 32) + (32 * 4 * 4 * 80 + 80) + (80 * 10 + 10)),
        # stem + its norm; a block: depthwise, norm, pointwise, norm; output
        (
            "sensor_cnn",
            {},
            9 * 5 * 32
            + 2 * 32
            + (32 * 5 + 2 * 32 + 32 * 64 + 2 * 64)
            + (64 * 5 + 2 * 64 + 64 * 96 + 2 * 96)
            + (96 * 5 + 2 * 96 + 96 * 128 + 2 * 128)
            + (128 * 6 + 6),
        ),
        # embedding; per layer 4 gates × hidden × (inputs + hidden) and two biases; output
        (
            "char_lstm",
            {},
            65 * 8 + 4 * 256 * (8 + 256) + 2 * 4 * 256 + 4 * 256 * (256 + 256) + 2 * 4 * 256 + 256 * 65 + 65,
        ),
    ],
)
def test_parameter_counts(name: str, options: dict[str, object], parameters: int) -> None:
    assert count(name, **options) == parameters


def test_default_model_of_digits_is_small() -> None:
    name, options = models.default_model("digits")
    assert 40_000 <= count(name, **options) <= 60_000


def test_mobilenet_costs_300_million_products() -> None:
    """Sandler et al. 2018, Table 4: 300 M multiply-adds at 224×224."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        skeleton(resolve("mobilenet_v2", {}))(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == pytest.approx(300e6, rel=0.01)


@pytest.mark.parametrize("name", sorted(set(models.NAMES) - set(DETECTORS)))
def test_every_model_gives_one_logit_per_class(name: str) -> None:
    model = models.build(name, **SMALL.get(name, {}))
    options = dict(models.spec_of(model).options)
    shape = options.get("input_shape", (80,))
    assert isinstance(shape, tuple)
    x = torch.zeros(2, *shape) if "input_shape" in options else torch.zeros(2, 80, dtype=torch.int64)
    assert model(x).shape == (2, options["num_classes"])


@pytest.mark.parametrize("name", models.NAMES)
def test_no_model_has_batch_norm_or_dropout(name: str) -> None:
    """Running statistics would differ between clients; dropout would draw from the global generator."""
    layers = list(skeleton(resolve(name, {})).modules())
    assert not any("BatchNorm" in type(each).__name__ or "Dropout" in type(each).__name__ for each in layers)
    assert not list(skeleton(resolve(name, {})).buffers())


def test_every_data_set_has_a_default_that_fits_its_shape() -> None:
    for dataset in DATASETS:
        name, options = models.default_model(dataset)
        count(name, **options)
    with pytest.raises(SettingsError, match="digits, mnist"):
        models.default_model("imagenet")


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1, 8, 8), "small_cnn"),
        ((3, 12, 40), "small_cnn"),
        ((1, 28, 28), "cnn"),
        ((3, 32, 32), "mobilenet_v2"),
        ((3, 224, 160), "mobilenet_v2"),
        ((6, 50), "sensor_cnn"),
        ((7,), "2nn"),
    ],
)
def test_own_data_of_a_shape_get_a_model_that_takes_it(shape: tuple[int, ...], name: str) -> None:
    got, options = models.for_shape(shape, 5)
    assert got == name
    with torch.device("meta"):
        assert skeleton(resolve(got, options))(torch.empty(2, *shape)).shape == (2, 5)


def test_a_shape_no_model_takes_is_refused() -> None:
    for shape in ((), (1, 2, 3, 4)):
        with pytest.raises(SettingsError, match="no model takes"):
            models.for_shape(shape, 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "there are linear, small_cnn"),
        ("cnn", {"depth": 3}, "it has input_shape, num_classes"),
        ("cnn", {"num_classes": 0}, "positive integer"),
        ("cnn", {"num_classes": True}, "positive integer"),
        ("cnn", {"num_classes": 2.5}, "positive integer"),
        ("cnn", {"input_shape": [1, -28, 28]}, "positive integers"),
        ("cnn", {"input_shape": "28"}, "positive integers"),
        ("cnn", {"input_shape": (9, 128)}, r"\(channels, height, width\)"),
        ("lenet5", {"input_shape": (1, 8, 8)}, "no layers"),
        ("mobilenet_v2", {"width": math.inf}, "positive number"),
        ("2nn", {"hidden": 10**7}, "at most"),
        ("2nn", {"hidden": 10**30}, "no layers"),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        models.build(name, **options)


def test_a_spec_survives_json_and_rebuilds_the_same_model() -> None:
    model = models.build("2nn", input_shape=[4], num_classes=3, hidden=5)
    spec = models.spec_of(model)
    again = ModelSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert spec.to_json() == '{"name": "2nn", "options": {"hidden": 5, "input_shape": [4], "num_classes": 3}}'
    for name, value in models.params_of(models.build(again)).items():
        np.testing.assert_array_equal(value, models.params_of(model)[name])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"name": "cnn"}',
        '{"name": "cnn", "options": 3}',
        '{"name": "x", "options": {}}',
        '{"name": "cnn", "options": {}, "code": "print()"}',
    ],
)
def test_a_record_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        ModelSpec.from_json(text)


def test_a_module_of_unknown_origin_has_no_spec() -> None:
    with pytest.raises(SettingsError, match="build"):
        models.spec_of(nn.Linear(2, 2))


def test_initial_params_depend_on_the_seed_alone_and_leave_generators_alone() -> None:
    model = models.build("small_cnn")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = models.initial_params(model, 7)
    models.build("cnn")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = models.initial_params(models.build("small_cnn"), 7), models.initial_params(model, 8)
    assert list(first) == list(models.params_of(model))
    for name, value in first.items():
        assert value.dtype == np.float32
        assert value.flags.c_contiguous
        np.testing.assert_array_equal(value, again[name])
        assert (value != other[name]).mean() > 0.99


def test_initial_params_have_the_spread_of_pytorchs_own() -> None:
    """Uniform(±1/√fan_in) has standard deviation 1/√(3 · fan_in); embeddings 1; norms are 1 and 0."""
    cnn = models.initial_params(models.build("cnn"), 0)
    assert cnn["hidden.weight"].std() == pytest.approx((3 * 3136) ** -0.5, rel=0.01)
    assert np.abs(cnn["features.3.weight"]).max() <= 800**-0.5
    assert np.abs(cnn["features.3.weight"]).max() > 0.99 * 800**-0.5
    lstm = models.initial_params(models.build("char_lstm"), 0)
    assert lstm["lstm.weight_ih_l0"].std() == pytest.approx((3 * 256) ** -0.5, rel=0.02)
    assert lstm["embedding.weight"].std() == pytest.approx(1, rel=0.1)
    sensor = models.initial_params(models.build("sensor_cnn"), 0)
    assert set(sensor["features.1.0.weight"]) == {1}
    assert set(sensor["features.1.0.bias"]) == {0}


def test_a_layer_without_a_rule_is_refused() -> None:
    with pytest.raises(SettingsError, match="PReLU"):
        models.initial_params(nn.Sequential(nn.PReLU()), 0)


def test_params_round_trip_and_are_copies() -> None:
    model = models.build("linear", input_shape=(3,), num_classes=2)
    params = models.initial_params(model, 5)
    models.load_params(model, params)
    read = models.params_of(model)
    for name, value in read.items():
        np.testing.assert_array_equal(value, params[name])
        value[...] = 9
    np.testing.assert_array_equal(models.params_of(model)["output.weight"], params["output.weight"])


def test_the_door_refuses_what_does_not_fit() -> None:
    model = quantize.prepare(models.build("linear", input_shape=(3,), num_classes=2))
    good = models.initial_params(model, 0)
    weight = good["output.weight"]
    bad = [
        {name: value for name, value in good.items() if not name.endswith(".act_range")},
        good | {"extra": weight},
        dict(reversed(good.items())),
        good | {"output.weight": weight.T},
        good | {"output.weight": weight.astype(np.float64)},
        good | {"output.weight": weight * np.float32(np.nan)},
    ]
    for params in bad:
        with pytest.raises(UpdateError):
            models.load_params(model, params)
    np.testing.assert_array_equal(models.params_of(model)["output.act_range"], [0, 0])


def test_only_float32_tensors_are_params() -> None:
    with pytest.raises(SettingsError, match="num_batches_tracked"):
        models.load_params(nn.BatchNorm1d(2), {})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("text_transformer", {"layers": 10**7}),
        ("text_transformer", {"layers": 10**4000}),
        ("slim_resnet", {"blocks": [4000]}),
        ("slim_resnet", {"blocks": [9 * 10**4298] * 20}),
        ("slim_resnet", {"blocks": [200, 57]}),
        ("slim_resnet", {"blocks": [1] * 257}),
        ("mlp", {"hidden": [8] * 257}),
        ("pooled_cnn", {"channels": [8] * 257}),
        ("mlp", {"input_shape": [1] * 257}),
    ],
)
def test_a_depth_is_refused_before_its_layers_are_made(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"{name}.* asks for more than 256 layers|is not a model's name"):
        ModelSpec.from_json(json.dumps({"name": name, "options": options}))


def test_the_deepest_that_is_allowed() -> None:
    assert len(skeleton(resolve("mlp", {"hidden": [1] * 256})).state_dict()) == 2 * 257


def test_a_width_above_all_floats() -> None:
    with pytest.raises(SettingsError, match="positive number"):
        resolve("mobilenet_v2", {"width": 10**400})


def test_json_as_deep_as_the_stack() -> None:
    with pytest.raises(SettingsError, match="not a model's name"):
        ModelSpec.from_json("[" * 100_000)
