"""Local training learns, is pure, and takes the steps its papers and torch.optim take."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional as F

from fedlite import models
from fedlite.compress.prune import magnitude_masks
from fedlite.compress.quantize import prepare
from fedlite.errors import DataError, SettingsError, UpdateError
from fedlite.step import Soft, begin, descend, objective, soft_loss
from fedlite.tensors import digest
from fedlite.train import TrainSettings, batches, evaluate, local_train, predict
from fedlite.types import Array, is_statistic
from tests.models.real import digits

Float64 = NDArray[np.float64]


def linear(bits: int = 32) -> nn.Module:
    model = models.build("linear", input_shape=(1, 8, 8), num_classes=10)
    return prepare(model) if bits == 8 else model


def start(model: nn.Module) -> dict[str, Array]:
    return models.initial_params(model, 3)


def some(count: int) -> tuple[Array, NDArray[np.int64]]:
    return digits("train").x[:count], digits("train").y[:count]


# --- it learns -----------------------------------------------------------------------------------------------


def test_the_default_model_learns_digits() -> None:
    name, options = models.default_model("digits")
    model = models.build(name, **options)
    settings = TrainSettings(epochs=10, momentum=0.9)
    train, test = digits("train"), digits("test")
    result = local_train(model, start(model), train.x, train.y, settings, seed=0)
    scores = evaluate(model, result.params, test.x, test.y)
    assert scores["accuracy"] >= 0.96
    assert result.num_examples == 1438
    assert result.accuracy >= 0.96
    assert 0 < result.loss < 0.15


def test_int8_aware_and_half_pruned_it_still_learns_digits() -> None:
    model = prepare(models.build("small_cnn"))
    settings = TrainSettings(epochs=5, momentum=0.9, bits=8)
    train, test = digits("train"), digits("test")
    dense = local_train(model, start(model), train.x, train.y, settings, seed=0).params
    masks = magnitude_masks(dense, 0.5)
    sparse = local_train(model, dense, train.x, train.y, settings, seed=1, masks=masks).params
    assert evaluate(model, sparse, test.x, test.y, bits=8, masks=masks)["accuracy"] >= 0.94
    assert sum(int((sparse[name][~mask] != 0).sum()) for name, mask in masks.items()) == 0


def test_a_character_model_learns_a_pattern() -> None:
    """a b c a b c …: the next is certain."""
    model = models.build("char_lstm", num_classes=3, hidden=16)
    text = np.arange(300) % 3
    x, y = np.stack([text[i : i + 8] for i in range(200)]), text[8:208]
    settings = TrainSettings(epochs=12, optimizer="adam", learning_rate=0.02, clip_norm=1.0)
    result = local_train(model, start(model), x, y, settings, seed=0)
    assert evaluate(model, result.params, x, y)["accuracy"] == 1


# --- it is pure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 32])
def test_the_same_arguments_give_the_same_bytes_and_nothing_else_changes(bits: int) -> None:
    model = models.build("small_cnn")
    model = prepare(model) if bits == 8 else model
    params, (x, y) = start(model), some(100)
    settings = TrainSettings(epochs=2, momentum=0.9, bits=bits)
    inputs = (digest(params), digest(models.params_of(model)), x.tobytes(), y.tobytes(), model.training)
    torch.manual_seed(1)
    first = local_train(model, params, x, y, settings, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = local_train(model, params, x, y, settings, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert digest(first.params) == digest(again.params)
    assert (first.loss, first.accuracy) == (again.loss, again.accuracy)
    other = local_train(model, params, x, y, settings, seed=6)
    assert digest(first.params) != digest(other.params)
    evaluate(model, params, x, y, bits=bits)
    assert inputs == (
        digest(params),
        digest(models.params_of(model)),
        x.tobytes(),
        y.tobytes(),
        model.training,
    )


def test_the_model_says_only_how_to_compute() -> None:
    """Its own weights and mode do not matter, and read-only data are fine."""
    model, (x, y) = models.build("small_cnn"), some(50)
    params = start(model)
    x.flags.writeable = False
    first = local_train(model, params, x, y, TrainSettings(), seed=0)
    models.load_params(model, models.initial_params(model, 99))
    again = local_train(model.eval(), params, x, y, TrainSettings(), seed=0)
    assert digest(first.params) == digest(again.params)


def test_batches_cover_every_example_once_in_an_order_of_their_own() -> None:
    first = list(batches(10, 4, seed=1, epoch=0))
    assert [len(each) for each in first] == [4, 4, 2]
    assert sorted(np.concatenate(first)) == list(range(10))
    assert not np.array_equal(np.concatenate(first), np.concatenate(list(batches(10, 4, seed=1, epoch=1))))
    assert not np.array_equal(np.concatenate(first), np.concatenate(list(batches(10, 4, seed=2, epoch=0))))
    assert [each.tolist() for each in batches(3, 0, seed=1)] == [[0, 1, 2]]
    assert [each.tolist() for each in batches(3, 2)] == [[0, 1], [2]]


# --- the steps are the right ones ----------------------------------------------------------------------------


def softmax_gradients(
    weight: Float64, bias: Float64, x: Float64, y: NDArray[np.int64]
) -> tuple[Float64, Float64]:
    """Of the mean cross-entropy of softmax regression: (p − onehot)ᵀ x / n and its mean over examples."""
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p.T @ x / len(y), p.mean(0)


@pytest.mark.parametrize(
    ("mu", "decay", "momentum"), [(0, 0, 0), (2.0, 0, 0), (0, 0.1, 0), (0, 0, 0.8), (2.0, 0.1, 0.8)]
)
def test_full_batch_sgd_is_gradient_descent_by_hand(mu: float, decay: float, momentum: float) -> None:
    """Three steps of softmax regression in NumPy float64; the penalty's gradient is mu · (w − w_t)."""
    model, (x, y) = linear(), some(40)
    params = start(model)
    settings = TrainSettings(
        epochs=3, batch_size=0, learning_rate=0.2, proximal_mu=mu, weight_decay=decay, momentum=momentum
    )
    result = local_train(model, params, x, y, settings, seed=0)
    flat = x.reshape(40, -1).astype(np.float64)
    w0, b0 = (params[f"output.{part}"].astype(np.float64) for part in ("weight", "bias"))
    w, b, vw, vb = w0, b0, 0 * w0, 0 * b0
    for _ in range(3):
        gw, gb = softmax_gradients(w, b, flat, y)
        vw = momentum * vw + gw + mu * (w - w0) + decay * w
        vb = momentum * vb + gb + mu * (b - b0) + decay * b
        w, b = w - 0.2 * vw, b - 0.2 * vb
    np.testing.assert_allclose(result.params["output.weight"], w, atol=1e-6)
    np.testing.assert_allclose(result.params["output.bias"], b, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings(momentum=0.9, weight_decay=1e-3),
        TrainSettings(optimizer="adam", learning_rate=1e-3, weight_decay=1e-2),
        TrainSettings(clip_norm=0.5),
        TrainSettings(clip_norm=0.5, momentum=0.9, weight_decay=1e-3),
    ],
    ids=["momentum", "adam", "clip", "all"],
)
def test_steps_are_those_of_torch_optim(settings: TrainSettings) -> None:
    """An ordinary PyTorch loop over the same batches, on the small CNN, ends within 1e-6."""
    settings = replace(settings, epochs=2, batch_size=20)
    model, (x, y) = models.build("small_cnn"), some(90)
    params = start(model)
    ours = local_train(model, params, x, y, settings, seed=4).params
    models.load_params(model, params)
    optimizer: torch.optim.Optimizer
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=rate, momentum=settings.momentum, weight_decay=decay
        )
    for epoch in range(2):
        for chosen in batches(90, 20, 4, epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.tensor(x[chosen])), torch.tensor(y[chosen])).backward()
            if settings.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
    for name, value in models.params_of(model).items():
        np.testing.assert_allclose(ours[name], value, atol=1e-6)


def test_a_step_is_never_longer_than_clip_norm() -> None:
    """With rate 1 and one step, ‖w − w_t‖ is the clipped gradient's norm; a short one is left alone."""
    model, (x, y) = linear(), some(40)
    params = start(model)

    def step(clip: float) -> float:
        settings = TrainSettings(batch_size=0, learning_rate=1.0, clip_norm=clip)
        got = local_train(model, params, x, y, settings, seed=0).params
        return float(np.sqrt(sum(np.square(got[n] - params[n]).sum() for n in params)))

    assert step(0.01) == pytest.approx(0.01, rel=1e-3)
    assert step(1e6) == step(0)


def test_no_penalty_is_plain_training_bit_for_bit() -> None:
    model, (x, y) = models.build("small_cnn"), some(60)
    plain = local_train(model, start(model), x, y, TrainSettings(epochs=2), seed=0)
    zero = local_train(model, start(model), x, y, TrainSettings(epochs=2, proximal_mu=0.0), seed=0)
    some_mu = local_train(model, start(model), x, y, TrainSettings(epochs=2, proximal_mu=1.0), seed=0)
    assert digest(plain.params) == digest(zero.params)
    params = start(model)
    far, near = (sum(np.square(r.params[n] - params[n]).sum() for n in params) for r in (plain, some_mu))
    assert near < far


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_pruned_weights_stay_zero_and_do_not_steer_the_others(optimizer: str) -> None:
    """What stood in the pruned places before makes no difference; the others still move."""
    model, (x, y) = models.build("small_cnn"), some(60)
    params = start(model)
    masks = magnitude_masks(params, 0.7)
    momentum = 0.9 if optimizer == "sgd" else 0.0
    settings = TrainSettings(
        epochs=2, optimizer=optimizer, momentum=momentum, weight_decay=0.01, proximal_mu=0.1, clip_norm=1.0
    )  # type: ignore[arg-type]
    result = local_train(model, params, x, y, settings, seed=0, masks=masks).params
    loud = {n: np.where(masks[n], v, np.float32(7)) if n in masks else v for n, v in params.items()}
    assert digest(result) == digest(local_train(model, loud, x, y, settings, seed=0, masks=masks).params)
    for name, mask in masks.items():
        assert not result[name][~mask].any()
        assert (result[name][mask] != params[name][mask]).mean() > 0.9


def test_evaluate_is_the_mean_over_examples_whatever_the_batch() -> None:
    model, (x, y) = linear(), some(30)
    params = start(model)
    logits = x.reshape(30, -1) @ params["output.weight"].T + params["output.bias"]
    loss = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(30), y])
    for size in (7, 512):
        scores = evaluate(model, params, x, y, batch_size=size)
        assert scores["loss"] == pytest.approx(loss, rel=1e-5)
        assert scores["accuracy"] == np.mean(logits.argmax(1) == y)


@pytest.mark.parametrize("bits", [8, 32])
def test_predictions_are_what_accuracy_counts(bits: int) -> None:
    model, (x, y) = linear(bits), some(40)
    params = local_train(model, start(model), x, y, TrainSettings(epochs=3, bits=bits), seed=0).params
    predicted = predict(model, params, x, bits=bits, batch_size=16)
    assert predicted.dtype == np.int64
    assert np.mean(predicted == y) == evaluate(model, params, x, y, bits=bits)["accuracy"]


# --- with a teacher ------------------------------------------------------------------------------------------


def test_soft_loss_by_hand() -> None:
    """T = 2; teacher logits (2 ln 3, 0) → p = (3/4, 1/4), student (0, 0) → q = (1/2, 1/2).

    KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.75·0.405465 − 0.25·0.693147 = 0.130812; times T² = 4: 0.523248. With a
    second example on which both agree, the mean is half of that.
    """
    teacher, student = (
        torch.tensor([[2 * np.log(3), 0.0], [1.0, 5.0]]),
        torch.tensor([[0.0, 0.0], [3.0, 7.0]]),
    )
    assert float(soft_loss(student[:1], teacher[:1], 2.0)) == pytest.approx(0.523248, abs=1e-5)
    assert float(soft_loss(student, teacher, 2.0)) == pytest.approx(0.523248 / 2, abs=1e-5)


def soft_gradient(logits: Float64, teacher: Float64, temperature: float) -> Float64:
    """Of T² KL w.r.t. the student's logits: T (q − p), p and q softened. (Hinton et al. 2015, eq. 2, times T²)"""
    p, q = (np.exp((each - each.max(1, keepdims=True)) / temperature) for each in (teacher, logits))
    return temperature * (q / q.sum(1, keepdims=True) - p / p.sum(1, keepdims=True))


@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 1.0), (0.3, 4.0)])
def test_training_with_a_teacher_is_gradient_descent_by_hand(alpha: float, temperature: float) -> None:
    """Three full-batch steps of softmax regression in float64; the reported loss is the labels' before the last."""
    model, (x, y) = linear(), some(40)
    params, teacher = start(model), np.random.default_rng(0).normal(0, 3, (40, 10)).astype(np.float32)
    settings = TrainSettings(
        epochs=3, batch_size=0, learning_rate=0.2, distill_alpha=alpha, temperature=temperature
    )
    result = local_train(model, params, x, y, settings, seed=0, teacher=teacher)
    flat = x.reshape(40, -1).astype(np.float64)
    w, b = (params[f"output.{part}"].astype(np.float64) for part in ("weight", "bias"))
    hard = 0.0
    for _ in range(3):
        logits = flat @ w.T + b
        hard = float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(40), y]))
        gw, gb = softmax_gradients(w, b, flat, y)
        soft = soft_gradient(logits, teacher.astype(np.float64), temperature)
        w = w - 0.2 * (alpha * gw + (1 - alpha) * soft.T @ flat / 40)
        b = b - 0.2 * (alpha * gb + (1 - alpha) * soft.mean(0))
    np.testing.assert_allclose(result.params["output.weight"], w, atol=2e-6)
    np.testing.assert_allclose(result.params["output.bias"], b, atol=2e-6)
    assert result.loss == pytest.approx(hard, rel=1e-5)


@pytest.mark.parametrize("bits", [8, 32])
def test_alpha_one_is_training_without_a_teacher_bit_for_bit(bits: int) -> None:
    model, (x, y) = models.build("small_cnn"), some(60)
    params = start(prepare(model) if bits == 8 else model)
    teacher, settings = np.ones((60, 10), np.float32), TrainSettings(bits=bits)
    plain = local_train(model, params, x, y, settings, seed=0)
    deaf = local_train(model, params, x, y, replace(settings, temperature=4.0), seed=0, teacher=teacher)
    taught = local_train(model, params, x, y, replace(settings, distill_alpha=0.5), seed=0, teacher=teacher)
    assert (digest(plain.params), plain.loss) == (digest(deaf.params), deaf.loss)
    assert digest(plain.params) != digest(taught.params)


def test_each_example_keeps_its_own_teacher() -> None:
    """Batches are shuffled: a teacher sure of the labels, and wrong labels that do not count, teach what labels do."""
    model, (x, y) = linear(), some(300)
    told = np.where(np.arange(10) == y[:, None], np.float32(25), np.float32(0))
    settings = TrainSettings(epochs=2, distill_alpha=0.0)
    taught = local_train(model, start(model), x, (y + 1) % 10, settings, seed=0, teacher=told).params
    plain = local_train(model, start(model), x, y, TrainSettings(epochs=2), seed=0).params
    for name, value in plain.items():
        np.testing.assert_allclose(taught[name], value, atol=1e-6)


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    model, (x, y) = linear(), some(10)
    settings, logits = TrainSettings(distill_alpha=0.5), np.zeros((10, 10), np.float32)
    with pytest.raises(SettingsError, match=r"distill_alpha is 0.5.*give the teacher's logits"):
        local_train(model, start(model), x, y, settings, seed=0)
    for bad, why in (
        (logits[:9], "10 examples and a teacher's logits for 9"),
        (logits[:, :1], "teacher tells 1 classes, the model 10"),
        (logits[0], "not \\(10,\\)"),
        (logits * np.nan, "NaN"),
    ):
        with pytest.raises(DataError, match=why):
            local_train(model, start(model), x, y, settings, seed=0, teacher=bad)


# --- int8-aware ----------------------------------------------------------------------------------------------


def test_activation_ranges_are_moving_averages_of_the_batches() -> None:
    """r ← batch range at first, then 0.9 r + 0.1 · batch range; by hand from the batches' own minima, maxima."""
    model, (x, y) = linear(bits=8), some(30)
    x = x - np.float32(0.3)
    result = local_train(model, start(model), x, y, TrainSettings(batch_size=10, bits=8), seed=2)
    want: Float64 | None = None
    for chosen in batches(30, 10, 2, 0):
        seen = np.array([x[chosen].min(), x[chosen].max()], np.float64)
        want = seen if want is None else 0.9 * want + 0.1 * seen
    np.testing.assert_allclose(result.params["output.act_range"], want, rtol=1e-6)


def test_ranges_are_neither_penalised_nor_decayed_nor_clipped() -> None:
    model, (x, y) = linear(bits=8), some(30)
    plain = TrainSettings(batch_size=10, bits=8)
    pressed = replace(plain, weight_decay=0.5, proximal_mu=5.0, clip_norm=0.01)
    ranges = [
        local_train(model, start(model), x, y, s, seed=2).params["output.act_range"] for s in (plain, pressed)
    ]
    np.testing.assert_array_equal(*ranges)


def test_at_32_bits_a_prepared_model_is_the_float_model() -> None:
    """Its statistics come back as they went in, its weights as the float model's."""
    float_model, model, (x, y) = linear(), linear(bits=8), some(50)
    params = start(model) | {"output.act_range": np.float32([-1, 3])}
    result = local_train(model, params, x, y, TrainSettings(), seed=0)
    plain = local_train(float_model, start(float_model), x, y, TrainSettings(), seed=0)
    assert list(result.params) == list(params)
    np.testing.assert_array_equal(result.params["output.act_range"], [-1, 3])
    learned = {name: value for name, value in result.params.items() if not is_statistic(name)}
    assert digest(learned) == digest(plain.params)
    assert evaluate(model, result.params, x, y) == evaluate(float_model, plain.params, x, y)


def test_a_float_model_trains_int8_aware_when_params_hold_the_ranges() -> None:
    model, (x, y) = models.build("small_cnn"), some(50)
    params = start(prepare(model))
    settings = TrainSettings(bits=8)
    here = local_train(model, params, x, y, settings, seed=0).params
    assert digest(here) == digest(local_train(prepare(model), params, x, y, settings, seed=0).params)
    with pytest.raises(UpdateError, match="act_range"):
        local_train(model, start(model), x, y, settings, seed=0)


# --- one step can be batched over clients --------------------------------------------------------------------


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("bits", [8, 32])
def test_a_cohort_in_one_vmap_is_each_client_alone(bits: int, taught: bool) -> None:
    """Three clients of one full batch each: gradients of `objective` under vmap, then `descend` on all at once.

    At 8 bits a sum in another order may round to the next step here and there: 1e-3 instead of 1e-6.
    """
    model = models.build("small_cnn")
    model = prepare(model) if bits == 8 else model
    params, settings = start(model), TrainSettings(batch_size=0, momentum=0.5, proximal_mu=0.1, bits=bits)
    teachers = np.random.default_rng(0).normal(0, 3, (3, 20, 10)).astype(np.float32)
    settings = replace(settings, distill_alpha=0.5 if taught else 1.0, temperature=2.0)
    xs, ys = digits("train").x[:60].reshape(3, 20, 1, 8, 8), digits("train").y[:60].reshape(3, 20)
    stacked = {n: torch.tensor(np.stack([v] * 3)) for n, v in params.items()}
    learned = {n: v for n, v in stacked.items() if not is_statistic(n)}
    ranges = {n: v for n, v in stacked.items() if is_statistic(n)}

    def loss(learned, ranges, x, y, logits):  # type: ignore[no-untyped-def]
        soft = Soft(logits, 0.5, 2.0) if taught else None
        value, seen = objective(model.train(), learned, ranges, x, y, soft)
        return value, seen.statistics

    data = (torch.tensor(each) for each in (xs, ys, teachers))
    gradients, moved = vmap(grad(loss, has_aux=True))(learned, ranges, *data)
    after, _ = descend(learned, gradients, begin(learned, settings), settings, learned, {})
    for client in range(3):
        told = teachers[client]
        alone = local_train(model, params, xs[client], ys[client], settings, seed=0, teacher=told).params
        for name, value in (after | moved).items():
            tolerance = 1e-6 if bits == 32 else 1e-3
            np.testing.assert_allclose(value[client].numpy(), alone[name], atol=tolerance)


# --- the door ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", -1),
        ("optimizer", "lion"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1e-9),
        ("proximal_mu", float("inf")),
        ("clip_norm", -1.0),
        ("bits", 1),
        ("distill_alpha", 1.1),
        ("distill_alpha", float("nan")),
        ("temperature", 0.0),
    ],
)
def test_a_setting_outside_its_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        TrainSettings(**{name: value})  # type: ignore[arg-type]


def test_adam_has_no_momentum_setting() -> None:
    with pytest.raises(SettingsError, match="adam"):
        TrainSettings(optimizer="adam", momentum=0.9)


def test_what_does_not_fit_is_refused() -> None:
    model, (x, y) = linear(), some(10)
    params = start(model)
    with pytest.raises(DataError, match="10 examples and 9 labels"):
        local_train(model, params, x, y[:9], TrainSettings(), seed=0)
    with pytest.raises(DataError, match="0 examples"):
        evaluate(model, params, x[:0], y[:0])
    with pytest.raises(UpdateError):
        local_train(model, {"output.weight": params["output.weight"]}, x, y, TrainSettings(), seed=0)
    for bad in (10, -1):
        with pytest.raises(DataError, match="classes 0 to 9"):
            local_train(model, params, x, np.where(y == 3, bad, y), TrainSettings(), seed=0)
    for wrong in (x[:, :, :7], x.astype(np.float64)):
        with pytest.raises(DataError, match="no examples of shape"):
            evaluate(model, params, wrong, y)
    for device in ("cuda:99", "toaster"):
        with pytest.raises(SettingsError, match="this machine has cpu"):
            local_train(model, params, x, y, TrainSettings(), seed=0, device=device)
