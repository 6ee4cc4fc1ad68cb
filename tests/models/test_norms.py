"""A norm by name, BatchNorm's statistics, and BatchNorm folded away."""

import numpy as np
import pytest
import torch
from torch import nn

from fedlite import models
from fedlite.compress import quantize
from fedlite.errors import SettingsError, UpdateError
from fedlite.models.bridge import layout
from fedlite.models.fold import fold_norms
from fedlite.models.norms import BatchNorm, groups_for, norm_of
from fedlite.models.registry import ModelSpec, skeleton
from fedlite.types import Params

TINY = {"input_shape": (3, 16, 16), "num_classes": 5, "width": 0.25, "stem_stride": 1}


def lived_in(model: nn.Module) -> dict[str, np.ndarray]:
    """Params as training leaves them: no norm of 1 and 0, statistics of all sizes."""
    random = np.random.default_rng(3)
    found = models.params_of(model)
    for name, value in found.items():
        if name.endswith(".running_var"):
            value[...] = random.uniform(0.01, 4, value.shape)
        elif value.ndim == 1 and not name.endswith(".act_range"):
            value[...] += random.normal(0, 0.3, value.shape)
    return found


def logits(model: nn.Module, params: Params, x: torch.Tensor) -> np.ndarray:
    models.load_params(model, params)
    with torch.no_grad():
        return model.eval()(x).numpy()


def test_layers_have_the_same_names_in_all_three() -> None:
    nets = {
        norm: skeleton(ModelSpec("mobilenet_v2", (("norm", norm),))) for norm in ("group", "batch", "none")
    }
    names = [list(dict(net.named_modules())) for net in nets.values()]
    assert names[0] == names[1] == names[2]
    # BatchNorm has GroupNorm's weight and bias: 3,504,872, of which 17,056 norms have a weight (torchvision's model)
    assert sum(p.numel() for p in nets["batch"].parameters()) == 3_504_872
    assert sum(p.numel() for p in nets["none"].parameters()) == 3_504_872 - 17_056
    assert {name.rpartition(".")[2] for name in layout(nets["batch"])} == {
        "weight",
        "bias",
        "running_mean",
        "running_var",
    }


@pytest.mark.parametrize(
    ("channels", "groups"), [(8, 1), (16, 2), (24, 3), (40, 5), (64, 8), (72, 8), (58, 2), (1, 1), (7, 1)]
)
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    """At most 8, of at least 8 channels: 58 / 8 is 7, of which 2 is the largest that divides 58."""
    assert groups_for(channels) == groups


def test_unknown_words_are_refused_with_those_known() -> None:
    with pytest.raises(SettingsError, match="group, batch, none"):
        norm_of(8, "layer")
    with pytest.raises(SettingsError, match="averaged, local, none"):
        models.build("mobilenet_v2", norm="batch", batch_stats="frozen")


def test_first_statistics_change_nothing() -> None:
    """Mean 0 and variance 1: only ε = 1e-5 is between an untrained norm and none."""
    params = models.params_of(models.build("mobilenet_v2", norm="batch", **TINY))
    assert set(params["features.1.running_mean"]) == {0}
    assert set(params["features.1.running_var"]) == {1}
    assert set(params["features.1.weight"]) == {1}
    assert set(params["features.1.bias"]) == {0}


def test_statistics_move_as_the_formula_says_and_the_given_ones_stay() -> None:
    """0.9 · old + 0.1 · batch: mean of 1, 2, 3, 6 is 3, unbiased variance (4 + 1 + 0 + 9) / 3."""
    layer = BatchNorm(1)
    given = {"running_mean": torch.tensor([10.0]), "running_var": torch.tensor([2.0])}
    weights = dict(given)
    x = torch.tensor([1.0, 2, 3, 6]).reshape(2, 1, 2, 1)
    out = torch.func.functional_call(layer, weights, (x,))
    assert weights["running_mean"].item() == pytest.approx(0.9 * 10 + 0.1 * 3)
    assert weights["running_var"].item() == pytest.approx(0.9 * 2 + 0.1 * 14 / 3)
    assert (given["running_mean"].item(), given["running_var"].item()) == (10, 2)
    assert out.detach().flatten().tolist() == pytest.approx(
        [(v - 3) / (3.5 + 1e-5) ** 0.5 for v in (1, 2, 3, 6)]
    )
    layer.eval()
    assert layer(x).flatten().tolist() == pytest.approx([v / (1 + 1e-5) ** 0.5 for v in (1, 2, 3, 6)])


@pytest.mark.parametrize(("stats", "value"), [("averaged", 2 / (1 + 1e-5) ** 0.5), ("none", 0.0)])
def test_one_value_per_channel_is_no_variance(stats: str, value: float) -> None:
    layer = BatchNorm(1, stats)
    assert layer(torch.tensor([[[[2.0]]]])).item() == pytest.approx(value)
    assert all(np.isfinite(each).all() for each in models.params_of(layer).values())


def spec_with(*changes: object) -> ModelSpec:
    first = skeleton(ModelSpec("mobilenet_v2", tuple((TINY | {"norm": "batch"}).items())))
    return ModelSpec("mobilenet_v2", models.spec_of(first).options, tuple(changes))  # type: ignore[arg-type]


CHANGES = {
    "as it is": (),
    "smaller": (  # a block's inner channels: 48 → 40
        ("size", "features.4.body.0", (40, 8, 1)),
        ("size", "features.4.body.1", (40,)),
        ("size", "features.4.body.3", (40, 40, 40)),
        ("size", "features.4.body.4", (40,)),
        ("size", "features.4.body.6", (8, 40, 1)),
    ),
    "rank": (("rank", "features.20", (7,)),),
    "fedpara": (("fedpara", "features.20", (7,)),),
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_folding_is_the_same_function(changes: tuple[object, ...]) -> None:
    spec = spec_with(*changes)
    model = models.build(spec)
    params = lived_in(model)
    plain, folded = fold_norms(spec, params)
    x = torch.from_numpy(np.random.default_rng(0).random((4, 3, 16, 16), np.float32))
    want = logits(model, params, x)
    got = logits(models.build(plain), folded, x)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    assert dict(plain.options)["norm"] == "none"
    assert ModelSpec.from_json(plain.to_json()) == plain
    assert [each for each in plain.changes if len(each[2]) == 1 and each[0] == "size"] == []
    assert fold_norms(plain, folded)[0] == plain


def test_folding_keeps_activation_ranges() -> None:
    spec = spec_with()
    model = models.build(spec)
    params = models.params_of(quantize.prepare(model))
    for name, value in params.items():
        if name.endswith(".act_range"):
            value[...] = (-1, 3)
    plain, folded = fold_norms(spec, params)
    models.load_params(quantize.prepare(models.build(plain)), folded)  # names and order are those of int8
    assert folded["output.act_range"].tolist() == [-1, 3]


def test_what_cannot_be_folded_is_refused() -> None:
    spec = spec_with()
    params = models.params_of(models.build(spec))
    with pytest.raises(UpdateError):
        fold_norms(spec, {name: value for name, value in params.items() if not name.endswith("running_var")})
    none = models.build("mobilenet_v2", norm="batch", batch_stats="none", **TINY)
    with pytest.raises(SettingsError, match="no statistics"):
        fold_norms(models.spec_of(none), models.params_of(none))
