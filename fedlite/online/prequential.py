"""Predict first, then learn: the accuracy of a model on samples it has not yet seen.

Over all samples (Dawid 1984, "The prequential approach", JRSS A 147(2)), and with a fading factor that forgets
old ones (Gama, Sebastião, Rodrigues 2013, "On evaluating stream learning algorithms", Machine Learning 90(3)).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import StateError

FADING = 0.99  # per sample: half of the weight lies in the last 69, 1 / (1 − 0.99) = 100 samples count in all


@dataclass(frozen=True)
class Prequential:
    """Counts so far. With a the fading factor and c(k) = 1 where sample k was predicted correctly, else 0:

    faded_correct = Σ a^(n−k) c(k), faded_seen = Σ a^(n−k); their ratio is the faded accuracy.
    """

    seen: int = 0
    correct: int = 0
    faded_seen: float = 0.0
    faded_correct: float = 0.0
    fading: float = FADING

    def observe(self, predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]) -> "Prequential":
        """The counts after these samples, in the order they came; call it before training on them.

        Shapes (n,) each. A batch gives what its samples give one by one.
        """
        hits = np.equal(predicted, labels).ravel()
        weights = self.fading ** np.arange(len(hits) - 1, -1, -1, dtype=np.float64)
        decay = self.fading ** len(hits)
        return dataclasses.replace(
            self,
            seen=self.seen + len(hits),
            correct=self.correct + int(hits.sum()),
            faded_seen=self.faded_seen * decay + float(weights.sum()),
            faded_correct=self.faded_correct * decay + float(weights[hits].sum()),
        )

    @property
    def accuracy(self) -> float | None:
        """Over all samples, in [0, 1]; None before the first."""
        return self.correct / self.seen if self.seen else None

    @property
    def recent_accuracy(self) -> float | None:
        """Faded, in [0, 1]: what a change in the data moves; None before the first sample."""
        return self.faded_correct / self.faded_seen if self.faded_seen else None

    def to_json(self) -> dict[str, float]:
        """Plain numbers; `from_json` gives the same state back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "Prequential":
        """The state that `to_json` wrote. Raises StateError for anything else."""
        names = [each.name for each in dataclasses.fields(Prequential)]
        if sorted(stored) != sorted(names) or not all(type(each) in (int, float) for each in stored.values()):
            raise StateError(f"prequential state has {sorted(stored)}, numbers {sorted(names)} wanted")
        return Prequential(**stored)
