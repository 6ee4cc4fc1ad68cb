"""A teacher teaches: by soft labels, by features, and as an ensemble that no one keeps."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedlite import models
from fedlite.compress.quantize import at
from fedlite.distill import Ensemble, Teacher, distill, feddf, load_teacher, teacher_logits
from fedlite.distill.features import attention_loss, hint_loss, regressor
from fedlite.errors import DataError, QuorumError, SettingsError, UpdateError
from fedlite.fusion import Fusion
from fedlite.models.registry import ModelSpec, build, resolve
from fedlite.models.saved import save_model
from fedlite.tensors import digest, subtract
from fedlite.train import TrainSettings, evaluate, local_train, logits
from fedlite.types import Array, Params, Result
from tests.models.real import digits, fashion

LINEAR = resolve("linear", {"input_shape": (1, 8, 8), "num_classes": 10})
CNN = resolve("small_cnn", {})
FAST = TrainSettings(epochs=2, momentum=0.9)


def fresh(spec: ModelSpec, seed: int = 3, bits: int = 32) -> dict[str, Array]:
    return models.initial_params(at(build(spec), bits), seed)


@cache
def taught() -> Teacher:
    """A CNN that knows digits well."""
    train, settings = digits("train"), TrainSettings(epochs=5, momentum=0.9)
    return Teacher(CNN, 32, local_train(build(CNN), fresh(CNN), train.x, train.y, settings, seed=0).params)


# --- the teacher ---------------------------------------------------------------------------------------------


def test_logits_are_the_models_own_whatever_the_batch() -> None:
    """Softmax regression by hand: W x + b."""
    params, x = fresh(LINEAR), digits("test").x[:30]
    want = x.reshape(30, -1) @ params["output.weight"].T + params["output.bias"]
    for size in (7, 512):
        np.testing.assert_allclose(teacher_logits(LINEAR, params, x, batch_size=size), want, atol=1e-5)
    assert teacher_logits(LINEAR, params, x[:0]).shape[0] == 0
    with pytest.raises(DataError, match="no examples of shape"):
        teacher_logits(LINEAR, params, x[:, :, :7])


@pytest.mark.parametrize("bits", [8, 32])
def test_a_teacher_comes_back_from_its_file(bits: int, tmp_path: Path) -> None:
    params = fresh(CNN, bits=bits)
    save_model(tmp_path / "model.safetensors", CNN.to_json(), bits, params)
    teacher, x = load_teacher(tmp_path / "model.safetensors"), digits("test").x[:20]
    assert (teacher.spec, teacher.bits, digest(teacher.params)) == (CNN, bits, digest(params))
    np.testing.assert_array_equal(teacher.logits(x), Teacher(CNN, bits, params).logits(x))
    assert teacher.name == Teacher(CNN, bits, params).name


def test_a_teachers_name_is_of_every_bit() -> None:
    params = fresh(CNN)
    bias = params["output.bias"].copy()
    bias[3] = np.nextafter(bias[3], np.float32(9))
    names = {
        Teacher(spec, bits, values).name
        for spec, bits, values in (
            (CNN, 32, params),
            (CNN, 8, params),
            (CNN, 32, params | {"output.bias": bias}),
            (LINEAR, 32, params),
        )
    }
    assert len(names) == 4
    assert all(len(name) == 64 for name in names)


def test_a_file_that_is_no_teacher_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(SettingsError, match="cannot read"):
        load_teacher(path)
    save_model(path, CNN.to_json(), 32, fresh(CNN))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(SettingsError):
        load_teacher(path)


# --- features ------------------------------------------------------------------------------------------------


def test_hint_and_attention_losses_by_hand() -> None:
    """Hint: ½ mean((1−0)², (3−1)²) = 1.25.

    Attention of two channels on one row of two places: Σ A² = (9+16, 0) = (25, 0) → (1, 0); the teacher's (1, 1)
    → (1, 1)/√2. Squared distance (1 − .7071)² + .5 = .585786; half of the mean over two places: .146447.
    """
    assert float(hint_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 3.0]]))) == pytest.approx(1.25)
    student = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])
    teacher = torch.tensor([[[[1.0, -1.0]]]])
    assert float(attention_loss(student, teacher)) == pytest.approx(0.146447, abs=1e-6)
    assert float(attention_loss(student, 5 * student)) == pytest.approx(0, abs=1e-12)


def test_attention_compares_maps_of_unlike_size() -> None:
    """The larger is averaged down: a map that is constant in blocks is the same attention as its small self."""
    small = torch.tensor(np.random.default_rng(0).normal(size=(2, 3, 4, 4)), dtype=torch.float32)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for pair in ((small, large), (large, small)):
        assert float(attention_loss(*pair)) == pytest.approx(0, abs=1e-10)


def test_a_regressor_makes_shapes_agree() -> None:
    """Romero et al., §2.2: N_g − k + 1 = N_h."""
    guided, hint = torch.zeros(1, 4, 9, 7), torch.zeros(1, 6, 5, 7)
    layer = regressor(guided, hint)
    assert tuple(layer.weight.shape) == (6, 4, 5, 1)  # type: ignore[union-attr]
    assert layer.to_empty(device="cpu")(guided).shape == hint.shape
    assert tuple(regressor(torch.zeros(1, 8), torch.zeros(1, 3)).weight.shape) == (3, 8)  # type: ignore[union-attr]


SMALL = ModelSpec(
    CNN.name,
    CNN.options,
    (("size", "features.2", (8, 16, 1)), ("size", "hidden", (20, 128)), ("size", "output", (10, 20))),
)


@pytest.mark.parametrize("bits", [8, 32])
def test_hints_come_before_soft_labels(bits: int) -> None:
    """In two stages, the same bytes every time, float or rounded."""
    teacher, train = taught(), digits("train")
    x, y = train.x[:600], train.y[:600]
    adam = TrainSettings(epochs=6, optimizer="adam", learning_rate=3e-3)
    settings = replace(adam, bits=bits, distill_alpha=0.5, temperature=3.0)
    params = fresh(SMALL, bits=bits)
    pair = [("hidden", "hidden")]
    out = distill(SMALL, params, teacher, x, y, settings, seed=0, method="fitnets", layers=pair)
    again = distill(SMALL, params, teacher, x, y, settings, seed=0, method="fitnets", layers=pair)
    plain = distill(SMALL, params, teacher, x, y, settings, seed=0)
    assert digest(out) == digest(again)
    assert digest(out) != digest(plain)
    assert list(out) == list(params)
    test = digits("test")
    assert evaluate(build(SMALL), out, test.x, test.y, bits=bits)["accuracy"] > 0.8


def test_hints_leave_what_comes_after_alone() -> None:
    """One epoch of hints, seen by stopping before the second stage: the layers past the hint keep their bytes."""
    from fedlite.distill.owner import _goal, _guided, _side_by_side, _with_regressors

    train, params = digits("train"), fresh(SMALL)
    ours, theirs = _side_by_side(SMALL, taught(), train.x, 32, [("features.2", "features.2")])
    before = hint_of(params, train.x[:100])
    hinted = _guided(
        _with_regressors(ours, theirs), params, train.x[:600], train.y[:600], FAST,
        _goal(theirs, hint_loss, alone=True), seed=1, masks=None, teacher=None,
    )  # fmt: skip
    moved = {name for name in params if not np.array_equal(params[name], hinted[name])}
    assert moved == {"features.0.weight", "features.0.bias", "features.2.weight", "features.2.bias"}
    assert hint_of(hinted, train.x[:100]) < before


def hint_of(params: Params, x: NDArray[np.float32]) -> float:
    """How far the best linear map of the student's maps is from the teacher's: least squares over all places."""
    found = []
    for spec, values in ((SMALL, params), (CNN, taught().params)):
        net = build(spec)
        models.load_params(net, values)
        with torch.no_grad():
            maps = net.get_submodule("features")[:3](torch.tensor(x))  # type: ignore[index]
        found.append(maps.movedim(1, -1).flatten(0, 2).double().numpy())
    own = np.hstack([found[0], np.ones((len(found[0]), 1))])
    return float(np.linalg.lstsq(own, found[1], rcond=None)[1].sum())


def test_attention_brings_maps_closer() -> None:
    teacher, train = taught(), digits("train")
    x, y = train.x[:600], train.y[:600]
    pair = [("features.1", "features.1"), ("features.3", "features.3")]

    def apart(params: Params) -> float:
        total = 0.0
        for depth in (2, 4):
            maps = []
            for spec, values in ((SMALL, params), (CNN, teacher.params)):
                net = build(spec)
                models.load_params(net, values)
                with torch.no_grad():
                    maps.append(net.get_submodule("features")[:depth](torch.tensor(x[:200])))  # type: ignore[index]
            total += float(attention_loss(*maps))
        return total

    out = distill(SMALL, fresh(SMALL), teacher, x, y, FAST, seed=0, method="attention", layers=pair)
    plain = local_train(build(SMALL), fresh(SMALL), x, y, FAST, seed=0).params
    none = distill(
        SMALL, fresh(SMALL), teacher, x, y, FAST, seed=0, method="attention", layers=pair, beta=0.0
    )
    assert apart(out) < 0.7 * apart(plain)
    assert digest(none) == digest(plain)  # without weight, attention is plain training


@pytest.mark.parametrize(
    ("method", "layers", "why"),
    [
        ("logits", (), r"distill_alpha is 1.*below 1"),
        ("distance", (), "method is 'distance'; there are logits, fitnets, attention"),
        ("fitnets", (), "which layers teach"),
        ("fitnets", (("head", "hidden"),), "teacher: the model has no layer 'head'; there are features.0"),
        (
            "attention",
            (("features.1", "head"),),
            "student: the model has no layer 'head'; there are features.0",
        ),
        ("fitnets", (("features.2", "features.4"),), "no larger in height and width"),
        ("fitnets", (("features.2", "hidden"),), "name another pair"),
        ("attention", (("hidden", "hidden"),), "attention is of maps"),
    ],
)
def test_layers_that_cannot_teach_are_refused(
    method: str, layers: tuple[tuple[str, str], ...], why: str
) -> None:
    x, y = digits("train").x[:40], digits("train").y[:40]
    with pytest.raises(SettingsError, match=why):
        distill(SMALL, fresh(SMALL), taught(), x, y, FAST, seed=0, method=method, layers=layers)  # type: ignore[arg-type]


def test_data_that_are_none_are_refused() -> None:
    x, y = digits("train").x, digits("train").y
    pair = [("hidden", "hidden")]
    for bad in (x[:0], x[:5, :, :7]):
        with pytest.raises(DataError, match="examples"):
            distill(
                SMALL, fresh(SMALL), taught(), bad, y[: len(bad)], FAST, seed=0, method="fitnets", layers=pair
            )


# --- many teachers -------------------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_its_logits() -> None:
    first, second = np.float32([[1, 2], [3, 4]]), np.float32([[3, 0], [3, 8]])
    np.testing.assert_array_equal(Ensemble().add(first).add(second).mean(), [[2, 1], [3, 6]])
    with pytest.raises(QuorumError):
        Ensemble().mean()
    with pytest.raises(DataError, match=r"says \(1, 2\)"):
        Ensemble().add(first).add(second[:1])
    with pytest.raises(DataError, match="NaN"):
        Ensemble().add(first * np.float32(np.nan))


def test_one_clients_ensemble_teaches_what_the_client_knows() -> None:
    """Softmax regression, full batch: FedDF's step is gradient descent on KL(client ‖ student), by hand."""
    start, client, x = fresh(LINEAR, 1), fresh(LINEAR, 2), digits("train").x[:50]
    settings = TrainSettings(batch_size=0, learning_rate=0.1)
    out = feddf(LINEAR, start, [client], x, settings, seed=0)
    flat = x.reshape(50, -1).astype(np.float64)

    def told(params: Params) -> NDArray[np.float64]:
        each = np.exp(flat @ params["output.weight"].T.astype(np.float64) + params["output.bias"])
        return each / each.sum(1, keepdims=True)

    slope = told(start) - told(client)
    np.testing.assert_allclose(
        out["output.weight"], start["output.weight"] - 0.1 * slope.T @ flat / 50, atol=1e-6
    )
    np.testing.assert_allclose(out["output.bias"], start["output.bias"] - 0.1 * slope.mean(0), atol=1e-6)


def experts() -> list[dict[str, Array]]:
    """Five clients, each of whom saw only four digits."""
    train, settings = digits("train"), TrainSettings(epochs=4, momentum=0.9)
    parts = [np.isin(train.y, [(2 * i + k) % 10 for k in range(4)]) for i in range(5)]
    return [
        local_train(build(CNN), fresh(CNN), train.x[part], train.y[part], settings, seed=i).params
        for i, part in enumerate(parts)
    ]


def test_as_a_rounds_rule_it_beats_the_average_and_streams() -> None:
    """One round of five clients with four digits each; public: half of the test digits, scored on the other half."""
    test, params = digits("test"), fresh(CNN)
    public, x, y = test.x[::2], test.x[1::2], test.y[1::2]
    known = experts()
    alive: list[int] = []

    def results():  # type: ignore[no-untyped-def]
        for index, client in enumerate(known):
            alive.append(index)
            yield Result(str(index), subtract(client, params), 100, {"loss": 1.0 + index})

    settings = TrainSettings(epochs=8, batch_size=32, optimizer="adam", learning_rate=1e-3)
    rule = Fusion(CNN.to_json(), public, 7, settings)
    combined = rule.combine(1, params, rule.init(params), results())
    assert alive == [0, 1, 2, 3, 4]
    assert combined.metrics == {"loss": 3.0}
    average = {name: np.mean([each[name] for each in known], 0, np.float32) for name in params}
    direct = feddf(CNN, average, known, public, settings, seed=7)
    scores = [evaluate(build(CNN), each, x, y)["accuracy"] for each in (average, combined.params, direct)]
    assert min(scores[1:]) > scores[0] + 0.1
    again = rule.combine(1, params, {}, results())
    assert digest(again.params) == digest(combined.params)
    assert digest(rule.combine(2, params, {}, results()).params) != digest(combined.params)


def test_fusion_keeps_pruned_weights_and_survives_a_client_that_says_nan() -> None:
    """A finite update can overflow in the forward pass: such a client is in the mean alone."""
    params, public = fresh(CNN), digits("test").x[:40]
    mask = np.random.default_rng(0).random(params["hidden.weight"].shape) < 0.5
    params["hidden.weight"] *= mask
    quiet = {name: np.zeros_like(value) for name, value in params.items()}
    loud = quiet | {"features.0.weight": np.full_like(params["features.0.weight"], 9e8)}
    loud |= {
        name: np.full_like(params[name], 9e8) * (mask if name == "hidden.weight" else 1) for name in params
    }
    assert not np.isfinite(logits(build(CNN), loud, public)).all()
    rule = Fusion(CNN.to_json(), public, 0, TrainSettings())
    good = rule.combine(1, params, {}, [Result("a", quiet, 5)])
    assert not good.params["hidden.weight"][~mask].any()
    both = rule.combine(1, params, {}, [Result("a", loud, 5)])
    assert max(float(np.abs(value).max()) for value in both.params.values()) >= 9e8
    with pytest.raises(QuorumError):
        rule.combine(1, params, {}, [])
    with pytest.raises(UpdateError):
        rule.combine(1, params, {}, [Result("a", {}, 5)])
    with pytest.raises(DataError, match="public examples"):
        Fusion(CNN.to_json(), public[:0], 0)


# --- it pays -------------------------------------------------------------------------------------------------


def test_a_student_with_a_teacher_beats_the_one_without(data_dir: Path) -> None:
    """Fashion-MNIST: 400 labelled images, a teacher that saw 6,000; the mean over three seeds, and each of them."""
    train, test = fashion(data_dir, "train", 6000), fashion(data_dir, "test", 1500)
    big, small = resolve("lenet_300_100", {}), resolve("2nn", {"hidden": 32})
    adam = TrainSettings(epochs=4, batch_size=64, optimizer="adam", learning_rate=1e-3)
    teacher = Teacher(big, 32, local_train(build(big), fresh(big), train.x, train.y, adam, seed=0).params)
    x, y, net = train.x[:400], train.y[:400], build(small)
    plain = TrainSettings(epochs=50, batch_size=100, optimizer="adam", learning_rate=5e-3)
    soft = replace(plain, distill_alpha=0.1, temperature=4.0)
    gains = []
    for seed in range(3):
        begin = fresh(small, seed)
        without = local_train(net, begin, x, y, plain, seed=seed).params
        told = distill(small, begin, teacher, x, y, soft, seed=seed)
        scores = [evaluate(net, each, test.x, test.y)["accuracy"] for each in (told, without)]
        gains.append(scores[0] - scores[1])
    assert np.mean(gains) > 0.01
    assert min(gains) > 0
