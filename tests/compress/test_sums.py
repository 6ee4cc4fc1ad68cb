"""Sums have the order they state: expected values are added one by one in plain Python."""

import numpy as np
import pytest

from fedlite.compress.sums import LANES, products, squares
from fedlite.types import Array


def in_lanes(pairs: list[tuple[Array, Array]]) -> float:
    """Product i of each pair in lane i mod LANES; then the upper half is added to the lower."""
    lanes = [0.0] * LANES
    for one, other in pairs:
        for i, (a, b) in enumerate(zip(one.tolist(), other.tolist(), strict=True)):
            lanes[i % LANES] += a * b
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [low + high for low, high in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


def drawn(size: int, seed: int) -> Array:
    """Of magnitudes so different that another order would show."""
    random = np.random.default_rng(seed)
    return (random.standard_normal(size) * 10 ** random.uniform(-6, 6, size)).astype(np.float32)


@pytest.mark.parametrize("size", [0, 1, 3, LANES - 1, LANES, LANES + 1, 16 * LANES, 40 * LANES + 7])
def test_products_and_squares(size: int) -> None:
    one, other = drawn(size, 1), drawn(size, 2)
    assert products(one, other) == in_lanes([(one, other)])
    assert squares([one]) == in_lanes([(one, one)])


def test_each_array_begins_in_the_first_lane() -> None:
    parts = [drawn(size, size) for size in (5, 3000, 1, 20_000)]
    assert squares(parts) == in_lanes([(part, part) for part in parts])
    assert squares([]) == 0


def test_what_is_given_stays_and_no_float32_is_too_large() -> None:
    largest = np.full(3, np.finfo(np.float32).max)
    before = largest.copy()
    assert squares([largest]) == 3 * float(largest[0]) ** 2
    assert (largest == before).all()
