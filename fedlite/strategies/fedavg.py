"""Federated averaging. (McMahan 2017, Algorithm 1)"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedlite.errors import SettingsError
from fedlite.strategies.base import State
from fedlite.tensors import add
from fedlite.types import Array, Params, Update


@dataclass(frozen=True)
class FedAvg:
    """w ← w + server_learning_rate · mean; 1.0 is the paper's."""

    server_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        if not self.server_learning_rate > 0:
            raise SettingsError(f"server_learning_rate is {self.server_learning_rate}, above 0 wanted")

    def init(self, params: Params) -> State:
        """No state."""
        return {}

    def client_settings(self) -> Mapping[str, float]:
        """Clients run plain local training."""
        return {}

    def step(self, params: Params, mean: Update, state: State) -> tuple[dict[str, Array], State]:
        """Move along the mean update."""
        return add(params, mean, self.server_learning_rate), state
