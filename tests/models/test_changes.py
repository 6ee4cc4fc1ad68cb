"""A spec with changes builds the changed network, and only one that fits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlite.errors import SettingsError
from fedlite.models import ModelSpec, build
from fedlite.models.bridge import initial_params, load_params, params_of
from fedlite.models.changes import Change, changes_from_json, sizes_between
from fedlite.models.registry import resolve, skeleton

# McMahan's CNN at half the channels and a quarter of the hidden units. By hand: 16·(25+1) + 32·(16·25+1)
# + 128·(32·7·7+1) + 10·(128+1) = 416 + 12832 + 200832 + 1290 = 215370 parameters.
HALF: tuple[Change, ...] = (
    ("size", "features.0", (16, 1, 1)),
    ("size", "features.3", (32, 16, 1)),
    ("size", "hidden", (128, 1568)),
    ("size", "output", (10, 128)),
)


def changed(*changes: Change) -> ModelSpec:
    return replace(resolve("cnn", {}), changes=changes)


def test_a_smaller_network() -> None:
    model = build(changed(*HALF))
    assert sum(each.numel() for each in model.parameters()) == 215370
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_json_both_ways() -> None:
    spec = changed(*HALF, ("rank", "hidden", (16,)), ("fedpara", "features.3", (8,)))
    assert ModelSpec.from_json(spec.to_json()) == spec
    plain = resolve("cnn", {})
    assert "changes" not in plain.to_json()
    assert ModelSpec.from_json(plain.to_json()) == plain


def test_sizes_between_finds_what_was_made() -> None:
    assert sizes_between(skeleton(resolve("cnn", {})), skeleton(changed(*HALF))) == HALF


def test_a_factorized_layer_computes_the_product() -> None:
    model = build(changed(("rank", "hidden", (16,))))
    params = params_of(model)
    whole = build("cnn")
    product = params["hidden.1.weight"] @ params["hidden.0.weight"]
    given = {n: v for n, v in params.items() if not n.startswith("hidden")}
    given |= {"hidden.weight": product, "hidden.bias": params["hidden.1.bias"]}
    load_params(whole, {name: given[name] for name in params_of(whole)})
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 1, 28, 28)).astype(np.float32))
    assert torch.allclose(model(x), whole(x), atol=1e-5)


def test_fedpara_reaches_the_square_of_its_rank() -> None:
    """Rank 4 twice spans up to 16 dimensions. (FedPara, Proposition 1)"""
    layer = build(changed(("fedpara", "hidden", (4,)))).get_submodule("hidden")
    x1, y1, x2, y2 = (layer.get_parameter(name) for name in ("x1", "y1", "x2", "y2"))
    weight = (x1 @ y1.T) * (x2 @ y2.T)
    assert torch.linalg.matrix_rank(weight).item() == 16
    x = torch.ones(2, weight.shape[1])
    assert torch.allclose(layer(x), x @ weight.T + layer.bias, atol=1e-4)


def test_fedpara_begins_with_the_spread_of_he() -> None:
    """Var W = 2 / fan-in (He et al. 2015), here of 3136 inputs."""
    params = initial_params(build(changed(("fedpara", "hidden", (32,)))), seed=3)
    weight = (params["hidden.x1"] @ params["hidden.y1"].T) * (params["hidden.x2"] @ params["hidden.y2"].T)
    assert np.var(weight) == pytest.approx(2 / 3136, rel=0.25)


@pytest.mark.parametrize(
    "change",
    [
        ("size", "features.9", (16, 1, 1)),  # no such layer
        ("size", "features.1", (16,)),  # a ReLU has no size
        ("size", "features.0", (64, 1, 1)),  # larger than it was
        ("size", "features.3", (63, 32, 2)),  # no whole groups
        ("rank", "hidden", (513,)),  # above the weight's rank
        ("fedpara", "features", (2,)),  # no layer of weights
        ("rank", "hidden", (2, 2)),
    ],
)
def test_a_change_that_does_not_fit(change: Change) -> None:
    with pytest.raises(SettingsError):
        skeleton(changed(change))


@pytest.mark.parametrize("kind", ["rank", "fedpara"])
def test_products_within_products_have_an_end(kind: str) -> None:
    """Each makes the names of its layers longer: many take the square of their number."""
    nested: list[Change] = [("rank", "hidden" + ".0" * depth, (8,)) for depth in range(4)]
    deepest = skeleton(changed(*nested))
    assert "hidden.0.0.0.0.weight" in deepest.state_dict()
    with pytest.raises(SettingsError, match="within 4 products"):
        skeleton(changed(*nested, (kind, "hidden.0.0.0.0", (8,))))
    assert skeleton(changed(*nested, ("rank", "hidden.1", (8,))))  # beside them, not within


def test_more_changes_than_layers() -> None:
    with pytest.raises(SettingsError, match="1001 changes; at most 1000"):
        changes_from_json([["size", "output", [10, 512]]] * 1001)


@pytest.mark.parametrize(
    "raw",
    ["size", [["size", "hidden"]], [["grow", "hidden", [1]]], [["rank", "hidden", [0]]], [[1, 2, 3]], None],
)
def test_json_that_is_no_change(raw: object) -> None:
    with pytest.raises(SettingsError):
        changes_from_json(raw)
