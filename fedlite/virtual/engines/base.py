"""What an engine is given and gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedlite.errors import DataError
from fedlite.train_settings import TrainSettings
from fedlite.types import Masks, Params
from fedlite.virtual.rows import Trained
from fedlite.virtual.samples import Picked, Samples, Taken

Share = Callable[[int], Samples | Picked]  # a client's number → its samples


@dataclass(frozen=True, eq=False)
class Work:
    """What a block of clients is trained with. `model` is a ModelSpec's JSON, `params` are pruned by `masks`."""

    model: str
    params: Params
    masks: Masks
    settings: TrainSettings


class Engine(Protocol):
    """Trains clients by their numbers; knows where their samples come from.

    A client's row depends neither on the clients beside it nor on how many cores or processes there are. One
    client's failure is its own: it is named in `failed`, and the others are trained.
    """

    @property
    def name(self) -> str:
        """For people, and for the record: engines differ in the last bits."""

    def train(self, work: Work, clients: Sequence[int], seeds: Sequence[int]) -> Trained:
        """The clients' updates, in order; `seeds` are of their chance in this round."""

    def close(self) -> None:
        """End what was started for it."""


def found(share: Share, client: int) -> Samples | Picked:
    """A client's samples, wherever they lie. DataError when it has none."""
    samples = share(client)
    if len(samples.chosen if isinstance(samples, Picked) else samples[1]) == 0:
        raise DataError("this device has no samples yet", remedy="it takes part as soon as some arrive")
    return samples


def samples_of(share: Share, client: int) -> Taken:
    """A client's samples as arrays. DataError when it has none."""
    samples = found(share, client)
    return samples.taken() if isinstance(samples, Picked) else Taken(*samples)
