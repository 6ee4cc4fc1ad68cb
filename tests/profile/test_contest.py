"""Short trainings on scikit-learn's digits: the same number in one go, in two, and in another order."""

from pathlib import Path

import pytest

from fedlite.errors import DataError
from fedlite.models.registry import resolve
from fedlite.profile.candidates import Candidate
from fedlite.profile.config import Config
from fedlite.profile.contest import open_contest, open_samples


def config(samples: int, data: str = "digits") -> Config:
    return Config(search="mlp", budget="macs=1M", data=data, samples=samples, out=Path("unused"))


def test_a_score_does_not_depend_on_who_asked_what_before() -> None:
    settings = config(300)
    samples = open_samples(settings)
    assert len(samples) == 300
    shape = {"input_shape": (1, 8, 8)}
    one, other = (Candidate(resolve(name, shape), name) for name in ("linear", "mlp"))
    first = open_contest(settings, samples)
    steps = [first.score(one, 1), first.score(other, 1), first.score(one, 3)]
    second = open_contest(settings, open_samples(settings))
    assert (
        second.score(one, 3) == steps[2]
    )  # as after a restart, where the first epoch's score is in the cache
    assert second.score(other, 1) == steps[1]
    assert steps[2] > 0.5  # ten classes: chance is 0.1


def test_training_and_validation_samples_are_apart() -> None:
    settings = config(500)
    samples = open_samples(settings)
    contest = open_contest(settings, samples)
    assert len(contest.train) + len(contest.valid) == 500
    assert not {each.tobytes() for each in contest.train.x} & {each.tobytes() for each in contest.valid.x}


def test_too_few_samples() -> None:
    settings = config(2)
    with pytest.raises(DataError, match="too few"):
        open_contest(settings, open_samples(settings))
