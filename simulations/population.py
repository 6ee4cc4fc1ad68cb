"""The virtual clients of a simulation: whose samples are whose. Nothing is held for a client that is not drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from fedlite.apps.device import Device, Fixed, Held, Limits, Memory, Ram
from fedlite.apps.job import unverified
from fedlite.data.base import Dataset
from fedlite.data.partition import split
from fedlite.data.spec import open_data
from fedlite.data.synthetic import open_synthetic
from fedlite.downlink import Version
from fedlite.flower import Context
from fedlite.uplink import Clear
from simulations.config import Config

TEST_SAMPLES = 2000  # of synthetic data
ENDLESS = Limits(max_epochs=10**6, max_parameters=2**28)


class Population(Protocol):
    """Clients by number, and the samples the model is tested on (None: those of the data set)."""

    def __len__(self) -> int:
        """How many clients there are."""

    def share(self, client: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """A client's samples."""


@dataclass(frozen=True)
class Divided:
    """A data set cut in parts."""

    whole: Dataset
    parts: Sequence[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.parts)

    def share(self, client: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """A copy of the client's part."""
        part = self.parts[client]
        return self.whole.x[part], self.whole.y[part]


def populate(config: Config) -> tuple[Population, Dataset | None]:
    """The clients the settings describe, and the test samples where the data set has none of its own."""
    if config.dataset.startswith("synthetic"):
        made = open_synthetic(config.dataset, config.clients, config.seed)
        return made, made.test(TEST_SAMPLES)
    whole = open_data(config.dataset, data_dir=config.data_dir)
    return Divided(whole, split(whole, config.partition, config.clients, config.seed)), None


@dataclass
class Forgetful:
    """Memory of a client that owes nothing: its updates are coded without loss."""

    def load(self) -> Held:
        """Nothing is held."""
        return Held()

    def save(self, held: Held) -> None:
        """Nothing is kept."""


class Devices:
    """Virtual devices, made when they are drawn. Clients at one version share one copy of it."""

    def __init__(self, population: Population, *, forgetful: bool) -> None:
        self._population, self._forgetful = population, forgetful
        self._memories: dict[int, Ram] = {}
        self._versions: WeakValueDictionary[str, Version] = WeakValueDictionary()

    def of(self, context: Context) -> Device:
        """The device a context stands for: its partition-id is its number."""
        index = int(context.node_config["partition-id"])
        x, y = self._population.share(index)
        memory: Memory = Forgetful() if self._forgetful else self._memories.setdefault(index, Ram())
        return Device(
            str(context.node_id),
            Fixed(x, y),
            memory,
            Clear(),
            unverified,
            limits=ENDLESS,
            versions=self._versions,
        )
