"""Flower's own strategies as rules: what they make of results, what survives a restart, what is refused."""

import numpy as np
import pytest

from fedlite.apps.stock import SUPPORTED, StockRule, stock_rule
from fedlite.errors import QuorumError, SettingsError
from fedlite.flower import as_task
from fedlite.strategies.base import State
from fedlite.types import Params, Result

PARAMS = {"w": np.array([1.0, 2.0], np.float32), "l.act_range": np.array([0.0, 1.0], np.float32)}


def results(count: int = 8, seed: int = 0) -> list[Result]:
    rng = np.random.default_rng(seed)
    return [
        Result(
            f"client-{index}",
            {
                "w": rng.standard_normal(2).astype(np.float32),
                "l.act_range": np.array([0.0, index], np.float32),
            },
            index + 1,
            {"loss": 1.0 + index},
        )
        for index in range(count)
    ]


@pytest.fixture(autouse=True)
def _task() -> None:
    as_task(1)


def rounds(rule: StockRule, count: int, params: Params, state: State, first: int = 1) -> tuple[Params, State]:
    for number in range(first, first + count):
        combined = rule.combine(number, params, state, results(seed=number))
        params, state = combined.params, combined.state
    return params, state


SPECS = [name if name != "QFedAvg" else "QFedAvg:client_learning_rate=0.1" for name in SUPPORTED]


@pytest.mark.parametrize("name", SPECS)
class TestEvery:
    def test_resumes_where_it_stopped(self, name: str) -> None:
        """Three rounds in one process, and one round in each of three."""
        whole, _ = rounds(stock_rule(name, 0), 3, PARAMS, {})
        params, state = PARAMS, {}
        for number in (1, 2, 3):
            params, state = rounds(stock_rule(name, 0), 1, params, state, number)
        assert all(np.array_equal(whole[key], params[key]) for key in PARAMS)
        assert not np.array_equal(whole["w"], PARAMS["w"])

    def test_a_round_can_be_run_again(self, name: str) -> None:
        rule = stock_rule(name, 0)
        first, _ = rounds(rule, 1, PARAMS, {})
        again, _ = rounds(rule, 1, PARAMS, {})
        assert np.array_equal(first["w"], again["w"])

    def test_averages_statistics_beside_it(self, name: str) -> None:
        combined = stock_rule(name, 0).combine(1, PARAMS, {}, results())
        weighted = sum((index + 1) * index for index in range(8)) / 36  # Σ n_k · Δ_k / Σ n_k
        assert combined.params["l.act_range"].tolist() == pytest.approx([0.0, 1.0 + weighted])

    def test_does_not_depend_on_the_order_of_arrival(self, name: str) -> None:
        one = stock_rule(name, 0).combine(1, PARAMS, {}, results())
        other = stock_rule(name, 0).combine(1, PARAMS, {}, reversed(results()))
        assert np.array_equal(one.params["w"], other.params["w"])


def test_fedavg_is_the_weighted_mean() -> None:
    want = PARAMS["w"] + sum(r.num_examples * r.update["w"] for r in results()) / 36
    np.testing.assert_allclose(
        stock_rule("FedAvg", 0).combine(1, PARAMS, {}, results()).params["w"], want, atol=1e-6
    )


def test_fedmedian_is_the_median() -> None:
    want = PARAMS["w"] + np.median([r.update["w"] for r in results()], axis=0)
    np.testing.assert_allclose(
        stock_rule("FedMedian", 0).combine(1, PARAMS, {}, results()).params["w"], want, atol=1e-6
    )


def test_momentum_with_a_learning_rate_works_from_the_first_round() -> None:
    rule = stock_rule("FedAvgM:server_learning_rate=0.5,server_momentum=0.9", 0)
    mean = sum(r.num_examples * r.update["w"] for r in results()) / 36
    np.testing.assert_allclose(
        rule.combine(1, PARAMS, {}, results()).params["w"], PARAMS["w"] + 0.5 * mean, atol=1e-6
    )


def test_fedprox_tells_the_clients() -> None:
    assert stock_rule("FedProx:proximal_mu=0.25", 0).client_settings() == {"proximal_mu": 0.25}


def test_too_few_results_for_the_strategy_is_a_missed_quorum() -> None:
    with pytest.raises(QuorumError, match="Bulyan"):
        stock_rule("Bulyan:num_malicious_nodes=2", 0).combine(1, PARAMS, {}, results(3))


@pytest.mark.parametrize(
    "spec",
    [
        "FedXgbBagging",
        "FedXgbCyclic",
        "DifferentialPrivacyServerSideFixedClipping",
        "FedNothing",
        "FedTrimmedAvg:beta=0.5",
        "FedAvg:min_train_nodes=5",
        "FedAvg:fraction_train=0.1",
        "FedAdam:eta=big",
        "FedAdam:learning_rate=1",
    ],
)
def test_what_cannot_work_is_refused_at_once(spec: str) -> None:
    with pytest.raises(SettingsError):
        stock_rule(spec, 0)
