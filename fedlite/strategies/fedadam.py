"""Adam on the server, with the mean update as its gradient. (Reddi 2021, Algorithm 2)"""

from dataclasses import dataclass

import numpy as np

from fedlite.strategies.base import State
from fedlite.strategies.fedavg import FedAvg
from fedlite.types import Array, Params, Update, is_statistic


@dataclass(frozen=True)
class FedAdam(FedAvg):
    """`tau` is the degree of adaptivity; no bias correction. Statistics are averaged, not stepped."""

    server_learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def init(self, params: Params) -> State:
        """First moments zero, second moments tau². (Algorithm 2: v₋₁ ≥ τ²)"""
        learned = {name: value for name, value in params.items() if not is_statistic(name)}
        first = {f"m.{name}": np.zeros_like(value) for name, value in learned.items()}
        second = {
            f"v.{name}": np.full_like(value, np.float32(self.tau**2)) for name, value in learned.items()
        }
        return first | second

    def step(self, params: Params, mean: Update, state: State) -> tuple[dict[str, Array], State]:
        """m ← β₁m + (1−β₁)Δ, v ← β₂v + (1−β₂)Δ², w ← w + η·m/(√v + τ)."""
        after: dict[str, Array] = {}
        moments: dict[str, Array] = {}
        for name, value in params.items():
            delta = mean[name]
            if is_statistic(name):
                after[name] = value + delta
                continue
            m: Array = self.beta1 * state[f"m.{name}"] + (1 - self.beta1) * delta
            v: Array = self.beta2 * state[f"v.{name}"] + (1 - self.beta2) * delta**2
            after[name] = value + self.server_learning_rate * m / (v**0.5 + self.tau)
            moments |= {f"m.{name}": m, f"v.{name}": v}
        return after, moments
