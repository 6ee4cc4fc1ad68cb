"""What every adapter is given and gives back: a workload as JSON in, seconds of each round as JSON out.

Only NumPy and the standard library: it is imported in every peer's own environment.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Workload:
    """`data` is a folder with x.npy (clients, samples, *shape), y.npy and test_x.npy, test_y.npy."""

    model: str  # mlp, pooled_cnn, mobilenet_v2, or none: clients that only answer
    data: str
    clients: int
    cohort: int
    samples: int
    epochs: int
    batch_size: int
    learning_rate: float
    threads: int
    warmup: int
    rounds: int
    seconds: float  # timed rounds end when this is used up, but not before two
    seed: int
    variant: str = ""

    def cohorts(self) -> np.ndarray:
        """Who takes part: (warmup + rounds, cohort) client indices, the same for everyone."""
        chance = np.random.default_rng(self.seed)
        return np.stack(
            [
                chance.choice(self.clients, self.cohort, replace=False)
                for _ in range(self.warmup + self.rounds)
            ]
        )

    def array(self, name: str) -> np.ndarray:
        """One of the arrays, mapped into memory: processes share its pages."""
        return _array(self.data, name)

    def client(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One client's samples and labels, copied."""
        return np.array(self.array("x")[index]), np.array(self.array("y")[index])


@cache
def _array(folder: str, name: str) -> np.ndarray:
    array: np.ndarray = np.load(f"{folder}/{name}.npy", mmap_mode="r")
    return array


def read() -> Workload:
    """The workload on this process's command line."""
    return Workload(**json.loads(sys.argv[1]))


def time_rounds(work: Workload, play: Callable[[np.ndarray], Any]) -> list[float]:
    """Seconds of each round that `play`s one cohort, after the warm-up."""
    seconds: list[float] = []
    for number, cohort in enumerate(work.cohorts()):
        began = time.perf_counter()
        play(cohort)
        if number >= work.warmup:
            seconds.append(time.perf_counter() - began)
        if sum(seconds) > work.seconds and len(seconds) >= 2:
            break
    return seconds


def report(work: Workload, seconds: list[float], accuracy: float | None, **more: Any) -> None:
    """The last line of an adapter's output. `accuracy` on the test images tells that the work was done."""
    each = work.cohort / float(np.median(seconds))
    figures = {"clients_s": each, "rounds": len(seconds), "seconds": seconds, "accuracy": accuracy}
    print(json.dumps(figures | more), flush=True)
