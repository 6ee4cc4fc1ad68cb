"""A network without some of its channels: the right ones are gone, the rest computes what it did, and it is smaller."""

import json
import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fedlite.compress.channels import PRUNABLE, Group, groups_of, without
from fedlite.compress.quantize import prepare
from fedlite.compress.structured import cost_of, prune_channels, to_budget
from fedlite.errors import DataError, SettingsError, UpdateError
from fedlite.models import NAMES, ModelSpec, build, load_params, params_of
from fedlite.models.registry import resolve, skeleton
from fedlite.types import Array

_IMAGES: dict[str, Any] = {"input_shape": (3, 16, 16), "num_classes": 10, "stem_stride": 1}
SMALL: dict[str, dict[str, Any]] = {  # small inputs, so that all are fast; norms of two groups at least
    "mobilenet_v2": _IMAGES,
    "slim_resnet": _IMAGES | {"blocks": (1, 1, 1)},
    "squeezenet": _IMAGES | {"width": 0.25},
}
OTHERS = [
    ("mobilenet_v2", {"norm": "batch"}), ("mobilenet_v2", {"norm": "none"}), ("slim_resnet", {"norm": "batch"}),
    ("squeezenet", {"norm": "batch"}), ("squeezenet", {"norm": "group", "width": 1.0}),
]  # fmt: skip
CASES = [(name, {}) for name in PRUNABLE] + OTHERS


def model(name: str, options: dict[str, Any]) -> tuple[ModelSpec, dict[str, Array]]:
    """A family with random weights everywhere, biases, norms and statistics included."""
    spec = resolve(name, SMALL.get(name, {}) | options)
    rng = np.random.default_rng(5)
    params = {
        n: np.float32(v + 0.1 * rng.standard_normal(v.shape)) for n, v in params_of(build(spec)).items()
    }
    return spec, {n: np.abs(v) + 0.5 if n.endswith("running_var") else v for n, v in params.items()}


def outputs(spec: ModelSpec, params: dict[str, Array]) -> np.ndarray:
    net = build(spec).eval()
    load_params(net, params)
    shape = dict(spec.options)["input_shape"]
    x = np.float32(np.random.default_rng(7).standard_normal((3, *shape)))
    with torch.no_grad():
        return net(torch.from_numpy(x)).numpy()


def silence(
    params: dict[str, Array], groups: tuple[Group, ...], some: dict[str, np.ndarray]
) -> dict[str, Array]:
    """The weights with those channels exactly zero wherever they are made: weight, bias, norm, mean."""
    params = {name: value.copy() for name, value in params.items()}
    for group in groups:
        for use in group.uses:
            places = use.places[np.isin(use.channels, some[group.root])]
            for part in ("weight", "bias", "running_mean"):
                if not use.inputs and f"{use.layer}.{part}" in params:
                    params[f"{use.layer}.{part}"][places] = 0
    return params


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_without_channels_that_are_zero_the_function_is_the_same(name: str, options: dict[str, Any]) -> None:
    """Every second channel of every layer; of a layer with a GroupNorm, every second group of the norm."""
    spec, params = model(name, options)
    groups = groups_of(spec)
    some = {g.root: np.flatnonzero((g.cells if g.cells.max() else np.arange(g.count)) % 2) for g in groups}
    quiet = silence(params, groups, some)
    smaller, left = prune_channels(spec, quiet, 0.5, whole_groups=True)
    even = {g.root for g in groups if 2 * some[g.root].size == g.count}
    assert groups
    if len(even) == len(groups):  # then importance chose the zeros, all of them
        want, wanted = without(spec, quiet, groups, some)
        assert smaller == want
        assert all(np.array_equal(left[each], wanted[each]) for each in left)
    else:
        smaller, left = without(spec, quiet, groups, some)
    np.testing.assert_allclose(outputs(smaller, left), outputs(spec, quiet), rtol=1e-4, atol=1e-5)
    assert cost_of(smaller)[1] < 0.6 * cost_of(spec)[1]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_half_the_channels(name: str, options: dict[str, Any]) -> None:
    """Every layer but the output has half its channels, and the spec as JSON makes the same network."""
    spec, params = model(name, options)
    smaller, left = prune_channels(spec, params, 0.5)
    assert ModelSpec.from_json(smaller.to_json()) == smaller
    assert outputs(smaller, left).shape == (3, dict(spec.options)["num_classes"])
    before, after = dict(skeleton(spec).named_modules()), dict(skeleton(smaller).named_modules())
    for group in groups_of(spec):
        for layer in group.layers:
            kept, had = (next(net[layer].parameters()).shape[0] for net in (after, before))
            size = group.count // (int(group.cells.max()) + 1)  # of each group of a norm half, halves upwards
            assert kept == had // size * math.ceil(size / 2)
    for name_, layer in after.items():
        if isinstance(layer, torch.nn.GroupNorm):
            assert layer.num_groups == before[name_].num_groups
    assert after["output"].weight.shape[0] == before["output"].weight.shape[0]
    assert cost_of(smaller)[0] < 0.55 * cost_of(spec)[0]


def test_by_hand() -> None:
    """An MLP of 3 hidden units, of which the second has the smallest weights relative to its layers."""
    spec = resolve("mlp", {"input_shape": (2,), "num_classes": 2, "hidden": (3,)})
    params = {
        "hidden.0.weight": np.float32([[3, 4], [1, 0], [0, 5]]),
        "hidden.0.bias": np.float32([7, 8, 9]),
        "output.weight": np.float32([[1, 2, 3], [4, 5, 6]]),
        "output.bias": np.float32([0, 1]),
    }
    smaller, left = prune_channels(spec, params, {"hidden.0": 1 / 3})
    assert smaller.changes == (("size", "hidden.0", (2, 2)), ("size", "output", (2, 2)))
    assert left["hidden.0.weight"].tolist() == [[3, 4], [0, 5]]
    assert left["hidden.0.bias"].tolist() == [7, 9]
    assert left["output.weight"].tolist() == [[1, 3], [4, 6]]
    assert left["output.bias"].tolist() == [0, 1]


def test_flattened_channels_leave_with_all_their_pixels() -> None:
    """LeNet-5's second convolution makes 50 maps of 4×4: hidden's inputs of map k are 16 k … 16 k + 15."""
    spec, params = model("lenet5", {})
    groups = groups_of(spec)
    _, left = without(spec, params, groups, {"features.2": np.array([0, 49])})
    np.testing.assert_array_equal(left["hidden.weight"], params["hidden.weight"][:, 16 : 49 * 16])
    np.testing.assert_array_equal(left["features.2.weight"], params["features.2.weight"][1:49])


def test_a_shortcut_ties_its_layers_together() -> None:
    """MobileNetV2's second stage of 24 channels, two blocks: both projections lose the same channels."""
    spec = resolve("mobilenet_v2", {})
    [group] = [g for g in groups_of(spec) if g.root == "features.4.body.6"]
    assert {layer for layer in group.layers if layer.endswith("body.6")} == {
        "features.4.body.6", "features.5.body.6",
    }  # fmt: skip


def test_pruned_again_it_is_named_once() -> None:
    spec, params = model("cnn", {})
    half, left = prune_channels(spec, params, 0.5)
    again, least = prune_channels(half, left, 0.5)
    assert len(again.changes) == len(half.changes) == 4
    assert {n: s for _, n, s in again.changes}["features.3"] == (16, 8, 1)
    assert outputs(again, least).shape == (3, 10)


def test_factorized_layers_lose_channels_too() -> None:
    spec = replace(resolve("cnn", {}), changes=(("rank", "hidden", (16,)),))
    params = params_of(build(spec))
    smaller, left = prune_channels(spec, params, {"hidden.1": 0.5})
    assert smaller.changes == (
        ("rank", "hidden", (16,)), ("size", "hidden.1", (256, 16)), ("size", "output", (10, 256)),
    )  # fmt: skip
    assert outputs(smaller, left).shape == (3, 10)


def test_activation_ranges_stay() -> None:
    """A model of int8-aware training keeps what it measured, and goes on."""
    spec, _ = model("small_cnn", {})
    params = params_of(prepare(build(spec)))
    smaller, left = prune_channels(spec, params, 0.5)
    net = prepare(build(smaller))
    load_params(net, left)
    assert [n for n in left if n.endswith("act_range")] == [n for n in params if n.endswith("act_range")]


def test_keep_and_round_to() -> None:
    spec, params = model("cnn", {})
    smaller, _ = prune_channels(spec, params, 0.4, keep=["features.0"], round_to=8)
    sizes = {name: size for _, name, size in smaller.changes}
    assert "features.0" not in sizes
    assert sizes["features.3"][0] == 40  # 0.6 · 64 = 38.4
    assert sizes["hidden"] == (304, 40 * 49)  # 0.6 · 512 = 307.2


@pytest.mark.parametrize("importance", ["taylor", "apoz", "activation"])
def test_importance_by_data(importance: Any) -> None:
    """Hidden unit 0 is loud and unread, 1 silent, 2 loud and read; weights say to drop none of these first."""
    spec = resolve("mlp", {"input_shape": (1,), "num_classes": 2, "hidden": (3,)})
    params = {
        "hidden.0.weight": np.float32([[2], [-9], [1]]),
        "hidden.0.bias": np.float32([0, 0, 0]),
        "output.weight": np.float32([[0.5, 9, 2], [0.5, -9, -2]]),  # equal for both classes: g of unit 0 is 0
        "output.bias": np.float32([0, 0]),
    }
    data = np.float32([[1], [2], [3]]), np.array([0, 1, 0])
    _, left = prune_channels(spec, params, 0.3, importance=importance, data=data)
    assert left["hidden.0.weight"].ravel().tolist() == [2, 1]
    with pytest.raises(DataError):
        prune_channels(spec, params, 0.3, importance=importance)
    with pytest.raises(DataError):
        prune_channels(spec, params, 0.3, importance=importance, data=(data[0][:0], data[1][:0]))


def test_macs_are_torchs() -> None:
    for name, options in [("cnn", {}), ("mobilenet_v2", SMALL["mobilenet_v2"]), ("sensor_cnn", {})]:
        spec = resolve(name, options)
        net = build(spec)  # lays itself out with a convolution or two
        with FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, *dict(spec.options)["input_shape"]))
        assert cost_of(spec)[1] == counter.get_total_flops() // 2


def test_a_budget_is_met_and_used() -> None:
    """The issue's: a quarter of the CNN's parameters and a third of its MACs; one channel more were too many."""
    spec, params = model("cnn", {})
    smaller, left = to_budget(spec, params, params_ratio=1 / 4, macs_ratio=1 / 3)
    (count, macs), (all_count, all_macs) = cost_of(smaller), cost_of(spec)
    assert count == sum(value.size for value in left.values())
    assert count <= all_count / 4
    assert macs <= all_macs / 3
    assert count > 0.98 * all_count / 4
    assert to_budget(spec, params)[0] == spec


def test_a_budget_for_a_model_with_groups() -> None:
    spec, params = model("sensor_cnn", {})
    smaller, left = to_budget(spec, params, macs_ratio=1 / 3)
    assert 0.2 < cost_of(smaller)[1] / cost_of(spec)[1] <= 1 / 3
    assert outputs(smaller, left).shape == (3, 6)
    with pytest.raises(SettingsError, match="smallest model"):
        to_budget(spec, params, macs_ratio=0.01)
    with pytest.raises(SettingsError, match="shares"):
        to_budget(spec, params, macs_ratio=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*PRUNABLE, "linear")])
def test_models_that_cannot_name_those_that_can(name: str) -> None:
    with pytest.raises(SettingsError, match=r"mobilenet_v2"):
        groups_of(resolve(name, {}))


@pytest.mark.parametrize(
    ("ratio", "word"),
    [
        (1.0, "ratio"),
        (-0.1, "ratio"),
        (math.nan, "ratio"),
        (0.99, "empty layer 'features.0'"),  # 0.01 · 32 rounds to none
        ({"features.0": 0.99}, "empty layer 'features.0'"),
        ({"features.9": 0.5}, r"features\.9"),
        ({"output": 0.5}, "output"),
        ({"features.1": 0.5}, r"features\.1"),
    ],
)
def test_ratios_that_cannot_be(ratio: Any, word: str) -> None:
    spec, params = model("cnn", {})
    with pytest.raises(SettingsError, match=word):
        prune_channels(spec, params, ratio)


def test_params_that_do_not_fit() -> None:
    spec, params = model("small_cnn", {})
    with pytest.raises(UpdateError):
        prune_channels(spec, model("cnn", {})[1], 0.5)
    odd = params | {"hidden.weight": np.full_like(params["hidden.weight"], math.nan)}
    with pytest.raises(SettingsError, match=r"hidden\.weight"):
        prune_channels(spec, odd, 0.5)
    with pytest.raises(SettingsError, match="importance"):
        prune_channels(spec, params, 0.5, importance="loud")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="lose all"):
        without(spec, params, groups_of(spec), {"hidden": np.arange(80)})
    fedpara = replace(spec, changes=(("fedpara", "hidden", (4,)),))
    with pytest.raises(SettingsError, match="FedPara"):
        groups_of(fedpara)


def test_within_no_grad_too() -> None:
    spec, params = model("small_cnn", {})
    data = np.ones((4, 1, 8, 8), np.float32), np.arange(4)
    wanted = prune_channels(spec, params, 0.5, importance="taylor", data=data)[1]
    with torch.no_grad():
        found = prune_channels(spec, params, 0.5, importance="taylor", data=data)[1]
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    with torch.inference_mode():
        assert len(groups_of(spec)) == 3


def test_without_torch_pruning_the_remedy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(SettingsError, match=r"pip install fedlite\[prune\]"):
        groups_of(resolve("mlp", {}))


def test_the_spec_is_all_a_file_needs() -> None:
    spec, params = model("small_cnn", {})
    smaller, _ = prune_channels(spec, params, 0.5)
    assert json.loads(smaller.to_json())["changes"][0] == ["size", "features.0", [8, 1, 1]]
