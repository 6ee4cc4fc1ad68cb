"""Which channels are silent after their ReLU: by hand, through norms and poolings, and not without data."""

import numpy as np
import pytest
import torch

from fedlite.compress.activation import activity, scores
from fedlite.compress.prune import channel_masks
from fedlite.errors import DataError, UpdateError
from fedlite.models import build, params_of
from fedlite.types import Array


def perceptron() -> tuple[torch.nn.Module, dict[str, Array]]:
    """Units x, −x and x + y of two inputs."""
    model = build("mlp", input_shape=(2,), num_classes=2, hidden=(3,))
    params = {
        "hidden.0.weight": np.float32([[1, 0], [-1, 0], [1, 1]]),
        "hidden.0.bias": np.zeros(3, np.float32),
        "output.weight": np.ones((2, 3), np.float32),
        "output.bias": np.zeros(2, np.float32),
    }
    return model, params


X = np.float32([[1, -1], [2, 2], [3, 0], [-4, 1]])


def test_by_hand() -> None:
    """x: 1 2 3 0, one zero of four; −x: 0 0 0 4; x + y: 0 4 3 0."""
    found = activity(*perceptron(), X)
    assert list(found) == ["hidden.0"]
    assert found["hidden.0"].zeros.tolist() == [0.25, 0.75, 0.5]
    assert found["hidden.0"].mean.tolist() == [1.5, 1, 1.75]
    assert scores(found, "apoz")["hidden.0"].tolist() == [0.75, 0.25, 0.5]
    assert scores(found, "activation")["hidden.0"].tolist() == [1.5, 1, 1.75]


def test_the_silent_ones_go() -> None:
    model, params = perceptron()
    masks = channel_masks(params, scores(activity(model, params, X), "apoz"), 1 / 3)
    assert masks["hidden.0.weight"].tolist() == [[True, True], [False, False], [True, True]]


def test_masked_units_are_silent() -> None:
    model, params = perceptron()
    masks = {"hidden.0.weight": np.array([[True, True], [True, True], [False, False]])}
    assert activity(model, params, X, masks)["hidden.0"].zeros.tolist() == [0.25, 0.75, 1]


def test_batches_make_no_difference() -> None:
    model = build("small_cnn")
    x = np.float32(np.random.default_rng(0).standard_normal((10, 1, 8, 8)))
    one, other = (activity(model, params_of(model), x, batch_size=size) for size in (3, 10))
    assert list(one) == ["features.0", "features.2", "hidden"]
    assert [each.zeros.shape for each in one.values()] == [(16,), (32,), (80,)]
    for name, each in one.items():
        np.testing.assert_allclose(each.zeros, other[name].zeros, rtol=1e-12)
        np.testing.assert_allclose(each.mean, other[name].mean, rtol=1e-5)


def test_the_layer_before_a_norm_or_a_relu6() -> None:
    """The convolution, not the norm; a linear bottleneck has no ReLU. Lenet-5's convolutions have none either."""
    model = build("mobilenet_v2", input_shape=(3, 16, 16), num_classes=2, width=0.25, stem_stride=1)
    found = activity(model, params_of(model), np.ones((1, 3, 16, 16), np.float32))
    assert {"features.0", "features.3.body.0", "features.4.body.3"} <= set(found)
    assert not {"features.3.body.3", "features.4.body.6", "output"} & set(found)
    lenet = build("lenet5")
    assert list(activity(lenet, params_of(lenet), np.ones((1, 1, 28, 28), np.float32))) == ["hidden"]


def test_the_model_is_left_as_it_was() -> None:
    model, params = perceptron()
    before = {name: value.copy() for name, value in params_of(model).items()}
    model.train()
    activity(model, params, X)
    assert model.training
    assert all(not layer._forward_hooks for layer in model.modules())
    assert all(np.array_equal(value, before[name]) for name, value in params_of(model).items())


def test_calibration_needs_data_of_the_model() -> None:
    model, params = perceptron()
    with pytest.raises(DataError, match="calibration"):
        activity(model, params, X[:0])
    with pytest.raises(DataError, match=r"\(3,\)"):
        activity(model, params, np.ones((2, 3), np.float32))
    with pytest.raises(UpdateError):
        activity(model, {n: v for n, v in params.items() if n != "output.bias"}, X)
