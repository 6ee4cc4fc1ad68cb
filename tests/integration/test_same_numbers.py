"""A plain loop, a stacked cohort, a grid in process and devices over the real link: the same parameters."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite.apps.gathering import name_of
from fedlite.apps.model import choose, initial, open_test
from fedlite.apps.settings import JobSettings
from fedlite.apps.stock import SUPPORTED
from fedlite.data.base import Dataset
from fedlite.models import NAMES, ModelSpec, build
from fedlite.models.registry import DETECTORS
from fedlite.modules import module_of
from fedlite.seeds import derive, generator
from fedlite.strategies.named import STRATEGIES
from fedlite.tensors import subtract
from fedlite.train import TrainSettings, local_train
from fedlite.types import Params
from fedlite.virtual import kernel
from fedlite.virtual.engines.compiled import Compiled
from tests.families import SMALL, samples
from tests.integration.federation import over_the_link, shares, virtually
from tests.integration.test_cohort import assert_same, stacked
from tests.virtual.test_kernel import length

ROUNDS = 5
FLOAT: dict[str, Any] = {
    "bits": 32, "uplink_codec": "float32", "downlink_codec": "float32", "evaluate_every": 0,
}  # fmt: skip
PLAIN = JobSettings(
    rounds=3, sparsity=0.0, learning_rate=0.1, epochs=1, batch_size=32, model="linear", **FLOAT
)
FEW_LIARS = ":num_malicious_nodes=1"
OPTIONS = {
    "Krum": FEW_LIARS,
    "MultiKrum": FEW_LIARS,
    "Bulyan": FEW_LIARS,
    "QFedAvg": ":client_learning_rate=0.05",
}
RULES = [
    *STRATEGIES,
    "fedprox:mu=0.1",
    "feddf",
    *(f"flwr:{name}{OPTIONS.get(name, '')}" for name in SUPPORTED),
]
DIVIDING = ("feddf", "flwr:FedAdagrad")  # by roots of what may be small: single arrays are less near
FAMILIES = [name for name in NAMES if name not in DETECTORS]  # no job has boxes for labels
SENSITIVE = ("mobilenet_v2", "slim_resnet")  # normalised to the end: they make much of the last bit


def plain_fedavg(settings: JobSettings, data: Sequence[Dataset], *, moved: int = 0) -> Params:
    """McMahan 2017, Algorithm 1, with nothing of fedlite but local training.

    `moved` > 0: from first weights whose last bit is another, up or down at random.
    """
    spec = choose(settings, open_test(settings))
    params = initial(spec, 32, derive(settings.seed, "model"))
    if moved:
        random = generator(moved, "the last bit")
        ways = {name: np.where(random.random(value.shape) < 0.5, -9, 9) for name, value in params.items()}
        params = {name: np.nextafter(value, np.float32(ways[name])) for name, value in params.items()}
    model, train = module_of(spec, 32), TrainSettings(**settings.train_settings())
    for round_num in range(1, settings.rounds + 1):
        total = {name: np.zeros(value.shape) for name, value in params.items()}
        examples = 0
        for index, share in enumerate(data):
            seed = derive(settings.seed, "client", round_num, name_of(index))
            local = local_train(model, params, share.x, share.y, train, seed=seed).params
            for name, value in local.items():
                total[name] += len(share) * value.astype(np.float64)
            examples += len(share)
        params = {name: (value / examples).astype(np.float32) for name, value in total.items()}
    return params


def assert_close(got: Params, want: Params, tolerance: float) -> None:
    """To `tolerance` of each array's largest value."""
    for name, value in want.items():
        scale = float(np.abs(value).max())
        np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance * scale, err_msg=name)


def apart(got: Params, want: Params) -> float:
    """The distance of all parameters, as a share of their length."""
    return length(subtract(got, want)) / length(want)


def assert_three_ways_agree(settings: JobSettings, data: Sequence[Dataset], folder: Path) -> Params:
    """The loop, a grid and the link: the same bits. All clients are waited for."""
    settings = replace(settings, quorum=len(data))
    for way in ("grid", "link"):
        (folder / way).mkdir()
    want, _ = stacked(settings, folder / "loop", data=data)
    assert want.round_num == settings.rounds
    assert_same(virtually(settings, [*data], folder / "grid")[0].params, want.params)
    assert_same(over_the_link(settings, [*data], folder / "link")[0].params, want.params)
    return want.params


def compiled(settings: JobSettings, data: Sequence[Dataset], folder: Path) -> Params:
    model, notes = stacked(settings, folder / "compiled", lambda share: Compiled(share, 2), data=data)
    assert notes.rows[-1]["engine"] == "compiled"
    return model.params


def test_it_is_federated_averaging(tmp_path: Path) -> None:
    assert_close(assert_three_ways_agree(PLAIN, shares(3), tmp_path), plain_fedavg(PLAIN, shares(3)), 1e-6)


@pytest.mark.parametrize("model", ["linear", "2nn", "small_cnn"])
@pytest.mark.parametrize("strategy", RULES)
def test_every_strategy(strategy: str, model: str, tmp_path: Path) -> None:
    """Half of the weights are pruned on the way; the engine is within 1e-5 after five rounds."""
    settings = JobSettings(
        rounds=ROUNDS, model=model, strategy=strategy, learning_rate=0.05, momentum=0.5, sparsity=0.5, prune_round=2,
        public="digits:3/20" if strategy == "feddf" else "", **FLOAT,
    )  # fmt: skip
    want = assert_three_ways_agree(settings, shares(7), tmp_path)
    got = compiled(settings, shares(7), tmp_path)
    assert apart(got, want) < (1e-4 if strategy == "feddf" else 1e-5)  # hundreds of the server's own steps
    if strategy not in DIVIDING:
        assert_close(got, want, 1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_model(name: str, tmp_path: Path) -> None:
    """Within 1e-5 after five rounds; or within what torch itself makes of the last bit of the first weights."""
    spec = build(name, **SMALL[name]).spec
    assert isinstance(spec, ModelSpec)
    data = [Dataset(*samples(spec, size, f"{size} samples"), 30, name) for size in (24, 9, 16)]
    settings = JobSettings(
        rounds=ROUNDS, dataset="", input_shape="x".join(map(str, data[0].x.shape[1:])), num_classes=30,
        model=as_text(spec), sparsity=0.0, epochs=2, batch_size=8, learning_rate=0.05, momentum=0.5, **FLOAT,
    )  # fmt: skip
    want = assert_three_ways_agree(settings, data, tmp_path)
    if kernel.supports(build(spec), TrainSettings(**settings.train_settings())) is not None:
        return  # the loop trains it, or a pool that gives the same bits
    got = compiled(settings, data, tmp_path)
    if name in SENSITIVE:
        plain = plain_fedavg(settings, data)
        rounding = max(apart(plain_fedavg(settings, data, moved=draw), plain) for draw in range(1, 7))
        assert apart(got, want) < max(1e-5, 1.5 * rounding)
    else:
        assert_close(got, want, 1e-5)


def as_text(spec: ModelSpec) -> str:
    """As on the command line: family:option=value,…"""
    words = {
        key: "x".join(map(str, value)) if isinstance(value, tuple) else value for key, value in spec.options
    }
    return f"{spec.name}:{','.join(f'{key}={value}' for key, value in words.items())}"


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
