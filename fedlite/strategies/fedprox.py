"""FedAvg whose clients pay mu/2 · ‖w − w_t‖² for leaving the global model. (Li 2020, equation 2)"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedlite.errors import SettingsError
from fedlite.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class FedProx(FedAvg):
    """`mu` ≥ 0; 0 is FedAvg bit for bit."""

    mu: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mu < 0:
            raise SettingsError(f"mu is {self.mu}, at least 0 wanted")

    def client_settings(self) -> Mapping[str, float]:
        """The penalty's weight."""
        return {"proximal_mu": self.mu}
