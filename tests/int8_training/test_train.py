"""Int8 training as a part of a round: pure, seeded, masked, as good as float training, refusing what it cannot."""

import numpy as np
import pytest
import torch
from torch import nn

from fedlite.compress import quantize
from fedlite.compress.integer import to_integer
from fedlite.data.datasets import load
from fedlite.errors import DataError, SettingsError, UpdateError
from fedlite.int8_training import SparseUpdate, int8_train
from fedlite.models.bridge import params_of
from fedlite.models.registry import build, spec_of
from fedlite.tensors import subtract
from fedlite.train import evaluate, local_train
from fedlite.train_settings import TrainSettings

INT8 = TrainSettings(epochs=1, batch_size=16, learning_rate=0.1, bits=8)


def start(name="small_cnn", **options):
    model = build(name, **options)
    return model, params_of(quantize.prepare(model))


@pytest.fixture(scope="module")
def digits():
    train, test = load("digits", "train"), load("digits", "test")
    return train.x, train.y, test.x, test.y


def some(count=20, shape=(1, 8, 8), classes=10):
    random = np.random.default_rng(0)
    return random.random((count, *shape), np.float32), random.integers(0, classes, count)


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others():
    model, params = start()
    x, y = some()
    one, two, other = (int8_train(model, params, x, y, INT8, seed=seed) for seed in (3, 3, 4))
    assert list(one.params) == list(params)
    assert all(one.params[n].tobytes() == two.params[n].tobytes() for n in params)
    assert (one.loss, one.accuracy, one.num_examples) == (two.loss, two.accuracy, 20)
    assert any((one.params[n] != other.params[n]).any() for n in params)


def test_arguments_are_left_alone_and_a_spec_does_as_well_as_a_model():
    model, params = start()
    before = {n: v.copy() for n, v in params.items()}
    x, y = some()
    one = int8_train(model, params, x, y, INT8, seed=3)
    two = int8_train(spec_of(model), params, x, y, INT8, seed=3)
    assert all((params[n] == before[n]).all() for n in params)
    assert all((one.params[n] == two.params[n]).all() for n in params)
    assert all(v.dtype == np.float32 and v.shape == params[n].shape for n, v in one.params.items())


def test_it_learns_what_float_training_learns(digits):
    x, y, test_x, test_y = digits
    model, params = start("mlp", input_shape=(1, 8, 8))
    settings = TrainSettings(epochs=6, batch_size=16, learning_rate=0.3, bits=8)
    ours = int8_train(model, params, x, y, settings, seed=1)
    theirs = local_train(model, params, x, y, settings, seed=1)
    got, want = (evaluate(model, dict(each.params), test_x, test_y, bits=8) for each in (ours, theirs))
    assert want["accuracy"] > 0.9
    assert got["accuracy"] > want["accuracy"] - 0.02
    assert ours.loss == pytest.approx(theirs.loss, rel=0.1)
    exported = to_integer(model, dict(ours.params))
    assert exported.accuracy(test_x, test_y) == pytest.approx(got["accuracy"], abs=0.01)


def test_rounding_at_random_moves_weights_as_float_training_does_on_average():
    model, params = start("mlp", input_shape=(1, 8, 8))
    x, y = some(16)
    gentle = TrainSettings(batch_size=16, learning_rate=0.03, bits=8)
    name = "hidden.0.weight"
    wanted = subtract(local_train(model, params, x, y, gentle, seed=0).params, params)[name]
    half_a_step = np.abs(params[name]).max(1, keepdims=True) / 127 / 2
    assert (np.abs(wanted) < half_a_step).mean() > 0.9  # rounded to nearest, most weights would never move
    runs = [subtract(int8_train(model, params, x, y, gentle, seed=s).params, params)[name] for s in range(40)]
    mean = np.mean(runs, axis=0)
    assert (mean * wanted).sum() / np.linalg.norm(mean) / np.linalg.norm(wanted) > 0.93
    assert (mean * wanted).sum() / (wanted * wanted).sum() == pytest.approx(1, abs=0.05)


def test_pruned_coordinates_stay_zero():
    model, params = start()
    random = np.random.default_rng(2)
    masks = {n: random.random(v.shape) < 0.5 for n, v in params.items() if n.endswith("weight")}
    x, y = some()
    decaying = TrainSettings(batch_size=16, bits=8, weight_decay=0.01, proximal_mu=0.1)
    trained = int8_train(model, params, x, y, decaying, seed=0, masks=masks).params
    for name, mask in masks.items():
        assert (trained[name][~mask] == 0).all()
        assert (trained[name][mask] != params[name][mask]).any()


def test_weight_decay_and_the_penalty_pull_as_in_float():
    model, params = start("mlp", input_shape=(1, 8, 8))
    x, y = some(16)
    for pulled in (
        TrainSettings(16, 16, bits=8, weight_decay=0.5),
        TrainSettings(4, 16, bits=8, proximal_mu=5),
    ):
        ours = subtract(int8_train(model, params, x, y, pulled, seed=0).params, params)
        theirs = subtract(local_train(model, params, x, y, pulled, seed=0).params, params)
        for name in ("hidden.0.weight", "output.weight", "output.bias"):
            along = (ours[name] * theirs[name]).sum() / (theirs[name] ** 2).sum()
            assert along == pytest.approx(1, abs=0.05), name


def test_a_teacher_is_heard():
    model, params = start()
    x, y = some()
    taught = TrainSettings(bits=8, batch_size=16, distill_alpha=0.0)
    teacher = np.zeros((20, 10), np.float32)
    teacher[:, 7] = 20
    logits = int8_train(model, params, x, y, taught, seed=0, teacher=teacher).params["output.bias"]
    assert (logits - params["output.bias"]).argmax() == 7


def test_channels_grow_past_their_first_range():
    model, params = start("linear", input_shape=(4,), num_classes=2)
    params = {n: v * np.float32(1e-3) for n, v in params.items()}
    x, y = np.eye(4, dtype=np.float32)[[0, 1] * 8], np.array([0, 1] * 8)
    fast = TrainSettings(epochs=20, batch_size=16, learning_rate=1.0, bits=8)
    ours = int8_train(model, params, x, y, fast, seed=0).params["output.weight"]
    theirs = local_train(model, params, x, y, fast, seed=0).params["output.weight"]
    assert np.abs(theirs).max() > 100 * np.abs(params["output.weight"]).max()
    np.testing.assert_allclose(ours, theirs, atol=0.02 * np.abs(theirs).max())


def test_divergence_is_not_finite_rather_than_wrong():
    model, params = start()
    x, y = some()
    wild = TrainSettings(epochs=3, batch_size=4, learning_rate=1e30, bits=8)
    trained = int8_train(model, params, x, y, wild, seed=0)
    assert not all(np.isfinite(v).all() for v in trained.params.values())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"bits": 32}, "bits is 32"),
        ({"optimizer": "adam"}, "adam"),
        ({"momentum": 0.9}, "momentum"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"distill_alpha": 0.5}, "teacher"),
    ],
)
def test_what_needs_more_memory_is_refused(change, word):
    model, params = start()
    with pytest.raises(SettingsError, match=word):
        int8_train(model, params, *some(), TrainSettings(**{"bits": 8} | change), seed=0)


def test_models_it_cannot_take_are_refused_by_the_layer():
    class Odd(nn.Module):
        def __init__(self, middle):
            super().__init__()
            self.first, self.middle, self.output = nn.Linear(4, 4), middle, nn.Linear(4, 2)

        def forward(self, x):
            return self.output(self.middle(self.first(x)))

    x, y = some(4, (4,), 2)
    for middle in (nn.Sigmoid(), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.LSTM(4, 4)):
        with pytest.raises(SettingsError, match=type(middle).__name__ + r" \(middle\)|LSTM|fixed graph"):
            int8_train(Odd(middle), {}, x, y, INT8, seed=0)
    model, params = start("char_lstm")
    with pytest.raises(SettingsError, match="int8 training cannot take this model"):
        int8_train(model, params, *some(4, (80,)), INT8, seed=0)


def test_data_and_params_are_checked():
    model, params = start()
    x, y = some()
    for bad_x, bad_y in ((x, y[:-1]), (x[:0], y[:0]), (x, y + 9), (x, y - 9), (x.astype(np.float64), y)):
        with pytest.raises(DataError):
            int8_train(model, params, bad_x, bad_y, INT8, seed=0)
    with pytest.raises(SettingsError):
        int8_train(model, params, *some(4, (3, 8, 8)), INT8, seed=0)
    with pytest.raises(UpdateError):
        int8_train(model, params_of(model), x, y, INT8, seed=0)
    with pytest.raises(SettingsError, match=r"'nowhere\.weight'"):
        int8_train(model, params, x, y, INT8, seed=0, update=SparseUpdate(("nowhere.weight",)))


def test_no_gradient_is_left_behind():
    model, params = start()
    int8_train(model, params, *some(), INT8, seed=0)
    assert all(each.grad is None for each in model.parameters())
    assert torch.is_grad_enabled()
