"""FedDF as a round's rule: the clients' average learns, on public examples, what the clients say together.

(Lin et al. 2020, Algorithm 1 and 3) The server needs examples of the kind the clients have, without labels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite import aggregate
from fedlite.distill.ensemble import Ensemble, fuse
from fedlite.errors import DataError
from fedlite.models.registry import ModelSpec, build
from fedlite.rounds import Combined
from fedlite.seeds import derive
from fedlite.strategies.base import State
from fedlite.tensors import add
from fedlite.train import logits
from fedlite.train_settings import TrainSettings
from fedlite.types import Masks, Params, Result

SERVER = TrainSettings(epochs=5, batch_size=64, optimizer="adam", learning_rate=1e-3)  # (§4.1, "adam, 1e-3")


@dataclass(frozen=True, eq=False)
class Fusion:
    """FedDF. `spec` is the ModelSpec as JSON, `public` examples (n, *input shape), n ≥ 1; the seed is the run's.

    `settings` are the server's own training: bits as the clients', distill_alpha is not used. Every client is asked
    about every public example once a round: keep them few (hundreds to thousands).
    """

    spec: str
    public: NDArray[Any]
    seed: int
    settings: TrainSettings = SERVER

    def __post_init__(self) -> None:
        """DataError without public examples."""
        if not len(self.public):
            raise DataError("feddf needs public examples, without labels; there are 0")

    def init(self, params: Params) -> State:
        """None."""
        return {}

    def client_settings(self) -> Mapping[str, float]:
        """Clients train as under FedAvg."""
        return {}

    def combine(self, round_num: int, params: Params, state: State, results: Iterable[Result]) -> Combined:
        """FedAvg's mean, then distillation from the mean of the clients' logits; no client's model is kept.

        A client whose model says NaN of the public examples is in the mean alone. QuorumError when there are none,
        UpdateError for an update that does not fit, DataError for public examples that do not.
        """
        model, total, ensemble = ModelSpec.from_json(self.spec), aggregate.start(params), Ensemble()
        net = build(model)
        for result in results:
            total = aggregate.add(total, result)
            told = logits(net, add(params, result.update), self.public, bits=self.settings.bits)
            ensemble = ensemble.add(told) if np.isfinite(told).all() else ensemble
        after = add(params, aggregate.finish(total))
        if ensemble.count:
            seed, masks = derive(self.seed, "feddf", round_num), pruned_in(after)
            after = fuse(model, after, ensemble, self.public, self.settings, seed=seed, masks=masks)
        return Combined(after, state, aggregate.mean_metrics(total))


def pruned_in(params: Params) -> Masks:
    """The weights that are exactly 0 in an average: those that no client trained, so pruned ones."""
    return {name: value != 0 for name, value in params.items() if value.ndim > 1 and not value.all()}
