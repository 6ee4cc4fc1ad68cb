"""In process, over the link, and a plain loop: the same federated averaging, the same parameters."""

from pathlib import Path

import numpy as np
import pytest

from fedlite.apps.model import choose, initial, open_test
from fedlite.apps.settings import JobSettings
from fedlite.modules import module_of
from fedlite.seeds import derive
from fedlite.train import TrainSettings, local_train
from fedlite.types import Params
from tests.integration.federation import over_the_link, shares, virtually

PLAIN = JobSettings(
    rounds=3,
    quorum=3,
    bits=32,
    sparsity=0.0,
    uplink_codec="float32",
    downlink_codec="float32",
    evaluate_every=0,
    learning_rate=0.1,
    epochs=1,
    batch_size=32,
    model="linear",
)


def plain_fedavg(settings: JobSettings) -> dict[str, np.ndarray]:
    """McMahan 2017, Algorithm 1, with nothing of fedlite but local training."""
    spec = choose(settings, open_test(settings))
    params = initial(spec, 32, derive(settings.seed, "model"))
    model, train = module_of(spec, 32), TrainSettings(learning_rate=settings.learning_rate)
    for round_num in range(1, settings.rounds + 1):
        total = {name: np.zeros(value.shape) for name, value in params.items()}
        examples = 0
        for index, share in enumerate(shares(3)):
            seed = derive(settings.seed, "client", round_num, f"client-{index}")
            local = local_train(model, params, share.x, share.y, train, seed=seed).params
            for name, value in local.items():
                total[name] += len(share) * value.astype(np.float64)
            examples += len(share)
        params = {name: (value / examples).astype(np.float32) for name, value in total.items()}
    return params


def assert_close(got: Params, want: Params, tolerance: float) -> None:
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance, err_msg=name)


def test_three_ways_to_one_model(tmp_path: Path) -> None:
    want = plain_fedavg(PLAIN)
    for way in (virtually, over_the_link):
        folder = tmp_path / way.__name__
        folder.mkdir()
        model, _ = way(PLAIN, shares(3), folder)
        assert model.round_num == 3
        assert_close(model.params, want, 1e-6)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedprox:mu=0.1", "flwr:FedAdam"])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, strategy: str) -> None:
    settings = JobSettings(
        rounds=3, prune_round=1, strategy=strategy, evaluate_every=0, cohort=3, over_selection=1.3
    )
    digests = set()
    for workers in (1, 2, 4):
        folder = tmp_path / str(workers)
        folder.mkdir()
        model, _ = virtually(settings, shares(5), folder, workers=workers)
        digests.add(model.held.hash)
    assert len(digests) == 1


def test_mu_zero_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    hashes = []
    for strategy in ("fedavg", "fedprox:mu=0"):
        folder = tmp_path / strategy.partition(":")[0]
        folder.mkdir()
        settings = JobSettings(rounds=2, strategy=strategy, evaluate_every=0, model="linear")
        hashes.append(virtually(settings, shares(2), folder)[0].held.hash)
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("name", ["FedAvg", "FedAdam", "FedMedian", "Krum"])
def test_stock_strategies_run_on_both_grids(tmp_path: Path, name: str) -> None:
    """The same stock strategy over both grids; FedAvg, Median and Krum of Flower also against NumPy."""
    settings = JobSettings(
        rounds=2, quorum=5, bits=32, sparsity=0.0, uplink_codec="float32", downlink_codec="float32",
        evaluate_every=0, model="linear", strategy=f"flwr:{name}",
    )  # fmt: skip
    models = []
    for way in (virtually, over_the_link):
        folder = tmp_path / way.__name__
        folder.mkdir()
        models.append(way(settings, shares(5), folder)[0])
    assert_close(models[0].params, models[1].params, 1e-6)
