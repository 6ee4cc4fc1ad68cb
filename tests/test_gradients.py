"""Gradients at all coordinates are the slopes of the loss, pruned or not."""

import math

import numpy as np
import pytest

from fedlite.compress.prune import magnitude_masks
from fedlite.compress.quantize import prepare
from fedlite.errors import DataError, UpdateError
from fedlite.gradients import dense_gradients
from fedlite.models import build, params_of
from fedlite.types import Array

X = np.float32([[1, 2], [3, -1], [0, 1]])
Y = np.array([0, 1, 1])


def softmax_regression() -> dict[str, Array]:
    return {"output.weight": np.float32([[0.5, 0], [0, -0.5]]), "output.bias": np.float32([0, 0.25])}


def by_hand(params: dict[str, Array], x: Array, y: np.ndarray) -> dict[str, np.ndarray]:
    """∂/∂W of mean cross-entropy: (p − onehot)ᵀ x / n."""
    logits = x @ params["output.weight"].T + params["output.bias"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = p - np.eye(2)[y]
    return {"output.weight": error.T @ x / len(x), "output.bias": error.mean(0)}


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_by_hand(batch_size: int) -> None:
    model, params = build("linear", input_shape=(2,), num_classes=2), softmax_regression()
    found = dense_gradients(model, params, X, Y, batch_size=batch_size)
    for name, wanted in by_hand(params, X, Y).items():
        np.testing.assert_allclose(found[name], wanted, atol=1e-6)
        assert found[name].dtype == np.float32


def test_squares_are_of_batches() -> None:
    """Batches of two and of one: 2/3 g₁² + 1/3 g₂²."""
    model, params = build("linear", input_shape=(2,), num_classes=2), softmax_regression()
    found = dense_gradients(model, params, X, Y, squared=True, batch_size=2)
    one, two = by_hand(params, X[:2], Y[:2]), by_hand(params, X[2:], Y[2:])
    for name in params:
        np.testing.assert_allclose(found[name], (2 * one[name] ** 2 + two[name] ** 2) / 3, atol=1e-6)


def test_pruned_coordinates_have_gradients_of_the_pruned_model() -> None:
    """At W ⊙ M: as of a model whose pruned weights are zero, there too."""
    model, params = build("linear", input_shape=(2,), num_classes=2), softmax_regression()
    masks = {"output.weight": np.array([[False, True], [True, True]])}
    zeroed = params | {"output.weight": np.where(masks["output.weight"], params["output.weight"], 0)}
    found = dense_gradients(model, params, X, Y, masks)
    np.testing.assert_allclose(found["output.weight"], by_hand(zeroed, X, Y)["output.weight"], atol=1e-6)
    assert found["output.weight"][0, 0] != 0


def test_int8_aware() -> None:
    """Statistics have no gradient; rounding moves the others little, and pruned ones have theirs."""
    model = build("small_cnn")
    rounded = prepare(model)
    x = np.float32(np.random.default_rng(0).standard_normal((40, 1, 8, 8)))
    y = np.arange(40) % 10
    params = params_of(rounded)
    masks = magnitude_masks(params, 0.5)
    found = dense_gradients(model, params, x, y, masks, 8)
    exact = dense_gradients(model, params_of(model), x, y, masks)
    assert list(found) == list(exact)
    one, two = (np.concatenate([each.ravel() for each in some.values()]) for some in (found, exact))
    assert one @ two / math.sqrt((one @ one) * (two @ two)) > 0.95
    assert np.count_nonzero(found["hidden.weight"][~masks["hidden.weight"]]) > 1000


def test_what_does_not_fit() -> None:
    model, params = build("linear", input_shape=(2,), num_classes=2), softmax_regression()
    for x, y in [(X, Y[:2]), (X[:0], Y[:0]), (X[:, :1], Y), (X, Y + 1)]:
        with pytest.raises(DataError):
            dense_gradients(model, params, x, y)
    with pytest.raises(UpdateError):
        dense_gradients(model, {"output.bias": params["output.bias"]}, X, Y)
