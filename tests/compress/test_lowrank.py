"""Factorized layers lose what Eckart and Young say, train on, and multiply back to the plain network."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite import models
from fedlite.compress.integer import to_integer
from fedlite.compress.lowrank import factorize, fedpara, merge
from fedlite.compress.quantize import at
from fedlite.errors import SettingsError, UpdateError
from fedlite.models.registry import ModelSpec, build, resolve
from fedlite.tensors import digest
from fedlite.train import TrainSettings, evaluate, local_train, logits
from fedlite.types import Array, Params
from tests.models.real import digits

CNN = resolve("small_cnn", {})  # features.0: 16×1×3×3, features.2: 32×16×3×3, hidden: 80×512, output: 10×80
MOBILE = resolve("mobilenet_v2", {"input_shape": (3, 32, 32), "num_classes": 10, "width": 0.25})


def fresh(spec: ModelSpec, bits: int = 32, seed: int = 3) -> dict[str, Array]:
    return models.initial_params(at(build(spec), bits), seed)


def count(params: Params) -> int:
    return sum(value.size for name, value in params.items() if not name.endswith("act_range"))


def matrix(weight: Array) -> NDArray[np.float64]:
    return weight.reshape(len(weight), -1).astype(np.float64)


def test_the_error_is_the_energy_that_was_left_out() -> None:
    """Eckart & Young: ‖W − W_r‖² = Σ_{k>r} σ_k², for a dense layer and for a convolution."""
    params = fresh(CNN)
    ranks = {"hidden": 20, "features.2": 12}
    spec, small = factorize(CNN, params, rank=ranks)
    assert spec.changes == (("rank", "hidden", (20,)), ("rank", "features.2", (12,)))
    assert small["features.2.0.weight"].shape == (12, 16, 3, 3)
    assert small["features.2.1.weight"].shape == (32, 12, 1, 1)
    plain, back = merge(spec, small)
    assert plain == CNN
    for name, rank in ranks.items():
        w, near = matrix(params[f"{name}.weight"]), matrix(back[f"{name}.weight"])
        left_out = np.square(np.linalg.svd(w, compute_uv=False)[rank:]).sum()
        assert np.square(w - near).sum() == pytest.approx(left_out, rel=1e-5)
        assert np.linalg.matrix_rank(near, tol=1e-5) == rank
        np.testing.assert_array_equal(back[f"{name}.bias"], params[f"{name}.bias"])


def test_energy_is_the_least_rank_that_keeps_the_share() -> None:
    """Singular values 4, 2, 1, 1/2: squares 16, 4, 1, 1/4 of 21.25 → shares .753, .941, .988, 1."""
    spec = resolve("2nn", {"input_shape": (20,), "hidden": 20})
    params = fresh(spec)
    random = np.random.default_rng(0)
    left, right = (np.linalg.qr(random.normal(size=(20, 20)))[0] for _ in range(2))
    values = np.array([4, 2, 1, 0.5] + [0] * 16)
    params["hidden2.weight"] = ((left * values) @ right).astype(np.float32)
    for energy, rank in ((0.5, 1), (0.76, 2), (0.94, 2), (0.95, 3), (0.99, 4), (1.0, 4)):
        changed, small = factorize(spec, params, energy={"hidden2": energy})
        assert changed.changes == (("rank", "hidden2", (rank,)),)
        _, back = merge(changed, small)
        lost = np.square(matrix(back["hidden2.weight"]) - matrix(params["hidden2.weight"])).sum() / 21.25
        assert lost <= 1 - energy + 1e-9


@pytest.mark.parametrize("spec", [CNN, MOBILE], ids=["cnn", "mobilenet"])
def test_the_factorized_network_computes_what_the_merged_one_does(spec: ModelSpec) -> None:
    shape = (4, 1, 8, 8) if spec == CNN else (4, 3, 32, 32)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    changed, small = factorize(spec, fresh(spec), energy=0.8)
    assert count(small) < count(fresh(spec))
    plain, back = merge(changed, small)
    assert plain == spec
    np.testing.assert_allclose(
        logits(build(changed), small, x), logits(build(plain), back, x), rtol=1e-3, atol=1e-4
    )


def test_what_does_not_get_smaller_stays_as_it_is() -> None:
    """features.0 is 16×9: rank 5 takes 5·25 = 125 < 144, rank 6 takes 150. All of the energy needs all ranks."""
    params = fresh(CNN)
    assert factorize(CNN, params, rank=6, layers=["features.0"])[0] == CNN
    assert factorize(CNN, params, rank=5, layers=["features.0"])[0].changes == (("rank", "features.0", (5,)),)
    same, kept = factorize(CNN, params, energy=1.0)
    assert (same, digest(kept)) == (CNN, digest(params))
    split = {name for _, name, _ in factorize(MOBILE, fresh(MOBILE), rank=1)[0].changes}
    groups = {name for name, layer in build(MOBILE).named_modules() if getattr(layer, "groups", 1) > 1}
    assert split
    assert not split & groups


@pytest.mark.parametrize("budget", [3_000, 10_000, 30_000, 46_650])
def test_a_parameter_budget_is_kept_and_used(budget: int) -> None:
    """Every layer keeps the same share of its energy: one rank more anywhere would be a larger share or too much."""
    params = fresh(CNN)
    spec, small = factorize(CNN, params, parameters=budget)
    assert count(small) == sum(v.size for v in models.params_of(build(spec)).values()) <= budget
    if budget == 46_650:
        assert spec == CNN
        return
    assert count(small) > budget - 5 * (80 + 512)
    shares = []
    for _, name, (rank,) in spec.changes:
        squares = np.square(np.linalg.svd(matrix(params[f"{name}.weight"]), compute_uv=False))
        shares.append((squares[: rank - 1].sum() / squares.sum(), squares[:rank].sum() / squares.sum()))
    assert max(low for low, _ in shares) <= min(high for _, high in shares)


@pytest.mark.parametrize("bits", [8, 32])
def test_factors_train_on_as_float_and_rounded(bits: int) -> None:
    """Digits: rank 3 of two trained layers costs accuracy, and training on the factors brings it back."""
    train, test = digits("train"), digits("test")
    settings = TrainSettings(epochs=4, momentum=0.9, bits=bits)
    trained = local_train(build(CNN), fresh(CNN, bits), train.x, train.y, settings, seed=0).params
    spec, small = factorize(CNN, trained, rank=3, layers=["features.2", "hidden"])
    assert count(small) < 0.2 * count(trained)
    net = build(spec)
    before = evaluate(net, small, test.x, test.y, bits=bits)["accuracy"]
    after = local_train(net, small, train.x, train.y, settings, seed=1).params
    score = evaluate(net, after, test.x, test.y, bits=bits)["accuracy"]
    assert score > before + 0.1
    if bits == 8:
        np.testing.assert_array_equal(small["hidden.0.act_range"], trained["hidden.act_range"])
        assert not small["hidden.1.act_range"].any()
        assert after["hidden.1.act_range"].any()
        assert abs(to_integer(net, after).accuracy(test.x, test.y) - score) < 0.01


def test_factorizing_again_leaves_factors_alone_and_merges_back() -> None:
    spec, small = factorize(CNN, fresh(CNN), rank=4, layers=["hidden"])
    twice, smaller = factorize(spec, small, rank=2)
    assert [name for _, name, _ in twice.changes] == ["hidden", "features.0", "features.2", "output"]
    within, _ = factorize(spec, small, rank=2, layers=["hidden.0"])
    assert within.changes[-1] == ("rank", "hidden.0", (2,))
    for each in (factorize(spec, small, rank=2, layers=["hidden.0"]), (twice, smaller)):
        plain, back = merge(*each)
        assert plain == CNN
        x = digits("test").x[:4]
        np.testing.assert_allclose(
            logits(build(each[0]), each[1], x), logits(build(plain), back, x), atol=1e-5
        )


def test_a_pruned_product_merges_to_a_pruned_layer() -> None:
    spec = ModelSpec(
        CNN.name,
        CNN.options,
        (("rank", "hidden", (8,)), ("size", "hidden.1", (60, 8)), ("size", "output", (10, 60))),
    )
    plain, back = merge(spec, fresh(spec))
    assert set(plain.changes) == {("size", "output", (10, 60)), ("size", "hidden", (60, 512))}
    x = digits("test").x[:4]
    np.testing.assert_allclose(logits(build(spec), fresh(spec), x), logits(build(plain), back, x), atol=1e-5)


# --- FedPara -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_fedpara_ranks_are_the_papers(gamma: float) -> None:
    """hidden 80×512: least ⌈√80⌉ = 9, most ⌊80·512 / 2·592⌋ = 34; features.0 16×9 has 3 to 2: it stays."""
    spec = fedpara(CNN, gamma=gamma)
    ranks = {name: rank for _, name, (rank,) in spec.changes}
    assert ranks["hidden"] == round((1 - gamma) * 9 + gamma * 34)
    assert "features.0" not in ranks
    params = fresh(spec)
    assert count(params) < count(fresh(CNN))
    _, back = merge(spec, params)
    assert np.linalg.matrix_rank(matrix(back["hidden.weight"])) == 80  # though its factors have 9 columns


def test_fedpara_learns_digits_and_merges_to_the_plain_network() -> None:
    train, test = digits("train"), digits("test")
    spec = fedpara(CNN, gamma=0.1)
    settings = TrainSettings(epochs=4, momentum=0.9)
    params = local_train(build(spec), fresh(spec), train.x, train.y, settings, seed=0).params
    score = evaluate(build(spec), params, test.x, test.y)
    assert score["accuracy"] >= 0.9
    plain, back = merge(spec, params)
    assert plain == CNN
    assert evaluate(build(plain), back, test.x, test.y) == pytest.approx(score, rel=1e-3)


def test_fedpara_layers_stay_float_beside_rounded_ones() -> None:
    """At 8 bits only plain layers round; merged, the layer rounds too, and its range is yet to be measured."""
    train, test = digits("train"), digits("test")
    spec = fedpara(CNN, gamma=0.1, layers=["hidden"])
    settings = TrainSettings(epochs=4, momentum=0.9, bits=8)
    params = local_train(build(spec), fresh(spec, 8), train.x, train.y, settings, seed=0).params
    assert "hidden.act_range" not in params
    assert params["output.act_range"].any()
    mixed = to_integer(build(spec), params)
    assert mixed.tensors["hidden.x1"].dtype == np.float32
    assert mixed.tensors["output.weight"].dtype == np.int8
    assert mixed.accuracy(test.x, test.y) >= 0.87
    plain, back = merge(spec, params)
    assert not back["hidden.act_range"].any()
    with pytest.raises(SettingsError, match="'hidden' has no activation range"):
        to_integer(build(plain), back)
    tuned = local_train(build(plain), back, train.x, train.y, TrainSettings(bits=8), seed=1).params
    assert to_integer(build(plain), tuned).accuracy(test.x, test.y) >= 0.87


def test_merging_one_kind_leaves_the_other() -> None:
    spec, _ = factorize(CNN, fresh(CNN), rank=4, layers=["hidden"])
    both = fedpara(spec, layers=["features.2"])
    plain, _ = merge(both, fresh(both), kinds=["fedpara"])
    assert plain == spec


# --- the door ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "one of rank, energy and parameters"),
        ({"rank": 2, "energy": 0.5}, "one of rank, energy and parameters"),
        ({"rank": 0}, "rank of 'features.0' is 0"),
        ({"rank": {"hidden": 1.5}}, "rank of 'hidden' is 1.5"),
        ({"energy": 0.0}, "energy of 'features.0' is 0.0"),
        ({"energy": {"hidden": 1.01}}, "energy of 'hidden' is 1.01"),
        ({"energy": math.nan}, "energy of 'features.0' is nan"),
        ({"energy": {"head": 0.5}}, "no layer 'head'; there are features.0"),
        ({"rank": 2, "layers": ["features.1"]}, "'features.1' is a ReLU"),
        ({"parameters": 100}, "too large"),
    ],
)
def test_what_cannot_be_factorized_is_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        factorize(CNN, fresh(CNN), **options)  # type: ignore[arg-type]


def test_weights_that_are_none_are_refused() -> None:
    params = fresh(CNN)
    with pytest.raises(UpdateError, match="NaN"):
        factorize(CNN, params | {"hidden.weight": params["hidden.weight"] * np.float32(np.nan)}, rank=2)
    with pytest.raises(UpdateError, match="names differ"):
        merge(CNN, {"hidden.weight": params["hidden.weight"]})


def test_fedpara_refuses_what_it_cannot_do() -> None:
    for gamma in (-0.1, 1.1, math.nan):
        with pytest.raises(SettingsError, match="gamma"):
            fedpara(CNN, gamma=gamma)
    with pytest.raises(SettingsError, match=r"'features\.0' would not get smaller"):
        fedpara(CNN, layers=["features.0"])
    with pytest.raises(SettingsError, match="no layer 'head'"):
        fedpara(CNN, layers=["head"])
    grouped = next(n for n, layer in build(MOBILE).named_modules() if getattr(layer, "groups", 1) > 1)
    with pytest.raises(SettingsError, match="without groups"):
        fedpara(MOBILE, layers=[grouped])
