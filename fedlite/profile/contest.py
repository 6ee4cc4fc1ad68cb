"""Accuracy of a candidate after a short training: what the search ranks by when it is given data."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fedlite.data.base import Dataset, holdout
from fedlite.data.spec import open_data
from fedlite.errors import DataError
from fedlite.models.bridge import initial_params
from fedlite.models.registry import build
from fedlite.profile.candidates import Candidate
from fedlite.seeds import derive, generator
from fedlite.train import TrainSettings, evaluate, local_train
from fedlite.types import Params

if TYPE_CHECKING:
    from fedlite.profile.config import Config

BATCH, MOMENTUM = 32, 0.9


@dataclass(frozen=True, eq=False)
class Contest:
    """Training and validation samples, and what every candidate has learned so far.

    Both are cut from the training split: the test split is not looked at.
    """

    train: Dataset
    valid: Dataset
    learning_rate: float
    seed: int
    _learned: dict[str, tuple[int, Params]] = field(default_factory=dict)

    def score(self, candidate: Candidate, epochs: int) -> float:
        """Accuracy on the validation samples after `epochs` in all, from where the last score left off.

        The same number whether it is asked in one process or in several: streams are named by seed and epoch.
        """
        name = candidate.spec.to_json()
        net = build(candidate.spec)
        if name not in self._learned:
            self._learned[name] = 0, initial_params(net, self.seed)
        done, params = self._learned[name]
        settings = TrainSettings(batch_size=BATCH, learning_rate=self.learning_rate, momentum=MOMENTUM)
        for epoch in range(done, epochs):
            seed = derive(self.seed, "search", epoch)
            params = local_train(net, params, self.train.x, self.train.y, settings, seed=seed).params
        self._learned[name] = (epochs, params)
        return evaluate(net, params, self.valid.x, self.valid.y)["accuracy"]


def open_samples(config: "Config") -> Dataset:
    """At most `samples` of the training data, drawn by the seed. DataError for data that are none."""
    whole = open_data(config.data, split="train", data_dir=config.data_dir)
    if len(whole) <= config.samples:
        return whole
    chosen = generator(config.seed, "search", "samples").permutation(len(whole))[: config.samples]
    return whole.take(np.sort(chosen))


def open_contest(config: "Config", samples: Dataset) -> Contest:
    """Four fifths of the samples to train on, one fifth to score by. DataError if that leaves none of one."""
    train, valid = (samples.take(holdout(samples.y, split)) for split in ("train", "test"))
    if not len(train) or not len(valid):
        raise DataError(
            f"{len(samples)} samples are too few to train on and to score by; give at least 3 of a class"
        )
    return Contest(train, valid, config.learning_rate, config.seed)
