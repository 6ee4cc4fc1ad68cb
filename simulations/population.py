"""The virtual clients of a simulation: whose samples are whose. Nothing is held for a client that is not drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlite.data.base import Dataset
from fedlite.data.partition import split
from fedlite.data.spec import open_data
from fedlite.data.synthetic import open_synthetic
from fedlite.virtual.samples import Picked, Samples
from simulations.config import Config

TEST_SAMPLES = 2000  # of synthetic data


class Population(Protocol):
    """Clients by number, and the samples the model is tested on (None: those of the data set)."""

    def __len__(self) -> int:
        """How many clients there are."""

    def share(self, client: int) -> Samples | Picked:
        """A client's samples."""

    def sizes_of(self, clients: Sequence[int]) -> Sequence[int] | NDArray[np.int64]:
        """How many samples each of these clients has."""


@dataclass(frozen=True)
class Divided:
    """A data set cut in parts."""

    whole: Dataset
    parts: Sequence[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.parts)

    def share(self, client: int) -> Picked:
        """The client's part, where it lies."""
        return Picked(self.whole.x, self.whole.y, self.parts[client])

    def sizes_of(self, clients: Sequence[int]) -> Sequence[int]:
        """The lengths of their parts."""
        return [len(self.parts[client]) for client in clients]


def populate(config: Config) -> tuple[Population, Dataset | None]:
    """The clients the settings describe, and the test samples where the data set has none of its own."""
    if config.dataset.startswith("synthetic"):
        made = open_synthetic(config.dataset, config.clients, config.seed)
        return made, made.test(TEST_SAMPLES)
    whole = open_data(config.dataset, data_dir=config.data_dir)
    return Divided(whole, split(whole, config.partition, config.clients, config.seed)), None
