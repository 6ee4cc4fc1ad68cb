"""What every strategy must do, and each one's rule by hand."""

import numpy as np
import pytest

from fedlite.errors import SettingsError
from fedlite.strategies.fedadam import FedAdam
from fedlite.strategies.fedavg import FedAvg
from fedlite.strategies.fedprox import FedProx
from fedlite.strategies.named import STRATEGIES, strategy_by_name

PARAMS = {"w": np.array([1.0, -2.0], np.float32), "l.act_range": np.array([0.0, 1.0], np.float32)}
MEAN = {"w": np.array([0.5, 0.25], np.float32), "l.act_range": np.array([-0.5, 0.5], np.float32)}


@pytest.mark.parametrize("name", STRATEGIES)
class TestEvery:
    def test_is_pure(self, name: str) -> None:
        strategy = strategy_by_name(name)
        params = {key: value.copy() for key, value in PARAMS.items()}
        state = strategy.init(params)
        first, _ = strategy.step(params, MEAN, state)
        second, _ = strategy.step(params, MEAN, state)
        assert all(np.array_equal(first[key], second[key]) for key in PARAMS)
        assert all(np.array_equal(params[key], PARAMS[key]) for key in PARAMS)

    def test_keeps_names_order_shape_and_dtype(self, name: str) -> None:
        strategy = strategy_by_name(name)
        after, state = strategy.step(PARAMS, MEAN, strategy.init(PARAMS))
        assert list(after) == list(PARAMS)
        assert all(after[key].dtype == np.float32 and after[key].shape == PARAMS[key].shape for key in PARAMS)
        assert all(value.dtype == np.float32 for value in state.values())

    def test_moves_along_the_update(self, name: str) -> None:
        strategy = strategy_by_name(name)
        after, _ = strategy.step(PARAMS, MEAN, strategy.init(PARAMS))
        assert (np.sign(after["w"] - PARAMS["w"]) == np.sign(MEAN["w"])).all()

    def test_stays_where_nothing_was_learned(self, name: str) -> None:
        strategy = strategy_by_name(name)
        none = {key: np.zeros_like(value) for key, value in PARAMS.items()}
        after, _ = strategy.step(PARAMS, none, strategy.init(PARAMS))
        assert all(np.array_equal(after[key], PARAMS[key]) for key in PARAMS)

    def test_averages_statistics(self, name: str) -> None:
        strategy = strategy_by_name(name)
        after, _ = strategy.step(PARAMS, MEAN, strategy.init(PARAMS))
        assert after["l.act_range"].tolist() == [-0.5, 1.5]


def test_fedavg_adds_the_mean() -> None:
    after, _ = FedAvg().step(PARAMS, MEAN, {})
    assert after["w"].tolist() == [1.5, -1.75]


def test_fedprox_differs_on_the_client_alone() -> None:
    assert FedProx(mu=0.1).client_settings() == {"proximal_mu": 0.1}
    assert (
        FedProx().step(PARAMS, MEAN, {})[0]["w"].tolist() == FedAvg().step(PARAMS, MEAN, {})[0]["w"].tolist()
    )


def test_fedadam_by_hand() -> None:
    # Reddi 2021, Algorithm 2, two rounds of the same Δ = 0.5 with η=0.1, β₁=0.9, β₂=0.99, τ=0.001:
    # m₁ = .05, v₁ = .99·1e-6 + .01·.25 = .00250099, x₁ = 1 + .1·.05/(.0500099 + .001) = 1.0980202
    # m₂ = .095, v₂ = .99·v₁ + .0025 = .00497598, x₂ = x₁ + .1·.095/(.0705406 + .001) = 1.2308119
    strategy = FedAdam(server_learning_rate=0.1)
    params = {"w": np.array([1.0], np.float32)}
    mean = {"w": np.array([0.5], np.float32)}
    state = strategy.init(params)
    for wanted in (1.0980202, 1.2308119):
        params, state = strategy.step(params, mean, state)
        assert params["w"][0] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        "fedsgd",
        "fedprox:mu=-1",
        "fedprox:nu=1",
        "fedavg:server_learning_rate=0",
        "fedprox:mu",
        "fedprox:mu=x",
    ],
)
def test_a_bad_spec_says_what_there_is(spec: str) -> None:
    with pytest.raises(SettingsError):
        strategy_by_name(spec)


def test_a_spec_carries_options() -> None:
    assert strategy_by_name("fedprox:mu=0.5,server_learning_rate=2") == FedProx(2.0, 0.5)
