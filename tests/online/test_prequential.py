import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlite.errors import StateError
from fedlite.online import Prequential


def test_by_hand() -> None:
    """Right, wrong, right, with a = 0.5: weights 0.25, 0.5, 1, so (0.25 + 1) / 1.75."""
    state = Prequential(fading=0.5).observe(np.array([1, 2, 3]), np.array([1, 0, 3]))
    assert (state.seen, state.correct) == (3, 2)
    assert state.accuracy == pytest.approx(2 / 3)
    assert state.recent_accuracy == pytest.approx(1.25 / 1.75)


def test_before_the_first_sample_there_is_no_accuracy() -> None:
    assert Prequential().accuracy is None
    assert Prequential().recent_accuracy is None
    empty = np.zeros(0, np.int64)
    assert Prequential().observe(empty, empty) == Prequential()


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 20))
def test_a_batch_gives_what_its_samples_give(hits: list[bool], size: int) -> None:
    labels = np.ones(len(hits), np.int64)
    predicted = np.array(hits, dtype=np.int64)
    one = whole = Prequential()
    for index in range(len(hits)):
        one = one.observe(predicted[index : index + 1], labels[index : index + 1])
    for start in range(0, len(hits), size):
        whole = whole.observe(predicted[start : start + size], labels[start : start + size])
    assert (whole.seen, whole.correct) == (one.seen, one.correct)
    assert whole.faded_seen == pytest.approx(one.faded_seen)
    assert whole.faded_correct == pytest.approx(one.faded_correct)


def test_the_faded_accuracy_follows_a_change_and_the_other_lags() -> None:
    right, wrong = np.ones(1000, np.int64), np.zeros(1000, np.int64)
    state = Prequential().observe(right, right).observe(wrong, right)
    assert state.accuracy == 0.5
    # 0.99^1000 = 4.3e-5 of the weight is left on the good half
    assert state.recent_accuracy == pytest.approx(0.99**1000, rel=1e-3)
    assert state.faded_seen == pytest.approx(100, abs=0.01)


def test_the_state_survives_json() -> None:
    state = Prequential().observe(np.array([1, 2, 3]), np.array([1, 0, 3]))
    assert Prequential.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize("stored", [{}, {"seen": 1}, Prequential().to_json() | {"seen": "1"}])
def test_another_state_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(StateError):
        Prequential.from_json(stored)
