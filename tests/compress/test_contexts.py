"""Classes are half octaves of the share that is not zero, to the nearest."""

import math

import numpy as np

from fedlite.compress.contexts import CLASSES, EMPTY, classes_of
from fedlite.compress.frequencies import QUARTER_SHARES, QUARTERS


def test_classes_are_the_nearest_half_octave() -> None:
    """No share is at an edge: those are odd powers of the fourth root of 2, which are irrational."""
    for live in (1, 2, 7, 300, 1 << 20):
        counts = np.unique(np.linspace(1, live, 200).astype(np.int64))
        wanted = [min(round(-2 * math.log2(count / live)), EMPTY - 1) for count in counts.tolist()]
        assert classes_of(counts, np.full(len(counts), live)).tolist() == wanted


def test_nothing_there_is_a_class_of_its_own() -> None:
    assert classes_of(np.array([0, 0]), np.array([5, 0])).tolist() == [EMPTY, EMPTY]
    assert CLASSES == EMPTY + 1


def test_what_is_sent_of_a_table_stands_for_the_nearest_quarter_octave() -> None:
    """Each weight lies between the shares from which its neighbours are sent."""
    share = QUARTERS / 2**20
    assert (share[:-1] > QUARTER_SHARES).all()
    assert (share[1:] < QUARTER_SHARES).all()
