"""One client after another with torch: the reference, and what is left when nothing faster knows the model."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedlite.errors import FedliteError
from fedlite.local import train
from fedlite.modules import module_of
from fedlite.tensors import apply_masks, subtract
from fedlite.train import TrainResult
from fedlite.virtual.engines.base import Share, Work, samples_of
from fedlite.virtual.rows import Trained, to_row, width
from fedlite.virtual.samples import Taken


@dataclass(frozen=True)
class Loop:
    """Trains in this process."""

    share: Share
    name: str = "torch, one client after another"

    def train(self, work: Work, clients: Sequence[int], seeds: Sequence[int]) -> Trained:
        """See Engine."""
        done = Trained.blank(len(clients), width(work.params))
        start = apply_masks(work.params, work.masks)
        for place, (client, seed) in enumerate(zip(clients, seeds, strict=True)):
            try:
                result = train_alone(work, samples_of(self.share, client), seed)
            except Exception as error:  # one client's failure is its own
                done.failed[place] = reason(error)
                continue
            done.updates[place] = to_row(subtract(result.params, start))
            done.loss[place], done.accuracy[place] = result.loss, result.accuracy
            done.counts[place] = result.num_examples
        return done

    def close(self) -> None:
        """Nothing was started."""


def train_alone(work: Work, samples: Taken, seed: int) -> TrainResult:
    """One client's local training."""
    module, (x, y, teacher) = module_of(work.model, work.settings.bits), samples
    return train(module, work.params, x, y, work.settings, seed=seed, masks=work.masks, teacher=teacher)


def reason(error: Exception) -> str:
    """What a client says of its failure."""
    return str(error) if isinstance(error, FedliteError) else f"{type(error).__name__}: {error}"
