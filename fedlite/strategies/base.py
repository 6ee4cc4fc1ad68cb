"""What a strategy is: pure functions from (params, mean update, state) to the next model."""

from collections.abc import Mapping
from typing import Protocol

from fedlite.types import Array, Params, Update

State = Mapping[str, Array]  # flat, so that the ledger can store it as it is


class Strategy(Protocol):
    """How the mean of a round's updates becomes the next model."""

    def init(self, params: Params) -> State:
        """The state before the first round."""

    def client_settings(self) -> Mapping[str, float]:
        """What clients do differently under this strategy: fields of TrainSettings to override."""

    def step(self, params: Params, mean: Update, state: State) -> tuple[dict[str, Array], State]:
        """(next params, next state); the arguments are left as they are."""
