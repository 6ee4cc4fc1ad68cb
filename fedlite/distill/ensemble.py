"""Many models as one teacher, asked one after the other; and FedDF, which makes their average learn from them.

(Lin et al. 2020, "Ensemble Distillation for Robust Model Fusion in Federated Learning", Algorithm 1)
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError, QuorumError
from fedlite.models.registry import ModelSpec, build
from fedlite.train import local_train, logits
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Masks, Params


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The sum of many models' logits on the same examples, in float64; no model is kept.

    The order of arrival can change the mean's last bit, no more.
    """

    sums: NDArray[np.float64] | None = None  # (n, classes); None before the first
    count: int = 0

    def add(self, spoken: Array) -> "Ensemble":
        """With one more model's logits, (n, classes). DataError unless they are as many and finite."""
        if not np.isfinite(spoken).all():
            raise DataError("a model of the ensemble says NaN or infinity of the public examples")
        if self.sums is None:
            return Ensemble(spoken.astype(np.float64), 1)
        if spoken.shape != self.sums.shape:
            raise DataError(f"a model says {spoken.shape} of the examples, those before {self.sums.shape}")
        return Ensemble(self.sums + spoken, self.count + 1)

    def mean(self) -> Array:
        """What all say together: the mean of the logits, each model counted once. QuorumError when empty."""
        if self.sums is None:
            raise QuorumError("no model to distil from")
        return (self.sums / self.count).astype(np.float32)


def feddf(
    spec: ModelSpec,
    start: Params,
    clients: Iterable[Params],
    x_public: NDArray[Any],
    settings: TrainSettings,
    *,
    seed: int,
    masks: Masks | None = None,
) -> dict[str, Array]:
    """`start`, the clients' average, after it learned what they say together of public examples.

    x_public is (n, *input shape), n ≥ 1, without labels. Each client's params are asked once, as they come, and let
    go: memory does not grow with their number. The loss is T² · KL(mean of their logits ‖ the student); the paper
    takes T = 1, adam at 1e-3. settings.distill_alpha is not used, for there are no labels.

    QuorumError without clients, UpdateError for params that do not fit, DataError for examples that do not, or
    clients that say NaN.
    """
    net, ensemble = build(spec), Ensemble()
    for params in clients:
        ensemble = ensemble.add(logits(net, params, x_public, bits=settings.bits))
    return fuse(spec, start, ensemble, x_public, settings, seed=seed, masks=masks)


def fuse(
    spec: ModelSpec,
    start: Params,
    ensemble: Ensemble,
    x_public: NDArray[Any],
    settings: TrainSettings,
    *,
    seed: int,
    masks: Masks | None = None,
) -> dict[str, Array]:
    """As `feddf`, from an ensemble that was asked already."""
    taught, told = replace(settings, distill_alpha=0.0), ensemble.mean()
    nobody = np.zeros(len(x_public), np.int64)  # labels of weight 0
    done = local_train(build(spec), start, x_public, nobody, taught, seed=seed, masks=masks, teacher=told)
    return dict(done.params)
