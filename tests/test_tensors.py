"""Arithmetic on named tensors."""

import numpy as np

from fedlite.tensors import apply_masks


def test_what_is_pruned_is_zero_whatever_it_was() -> None:
    """A product with the mask would leave −0 and NaN behind."""
    value = np.array([[-1.5, np.nan, np.inf], [-0.0, 2.5, -np.inf]], np.float32)
    kept = np.array([[False, False, False], [False, True, True]])
    pruned = apply_masks({"w": value, "b": value[0]}, {"w": kept})
    assert pruned["w"].tobytes() == np.array([[0, 0, 0], [0, 2.5, -np.inf]], np.float32).tobytes()
    np.testing.assert_array_equal(pruned["b"], value[0])


def test_pruned_tensors_are_new_and_lie_in_any_order() -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    everything = np.ones((3, 2), np.bool_)
    pruned = apply_masks({"w": value.T}, {"w": everything})["w"]
    np.testing.assert_array_equal(pruned, value.T)
    assert not np.shares_memory(pruned, value)
