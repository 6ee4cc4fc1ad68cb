"""Real updates to code: a few federated rounds make a model, one client more trains it on its own samples."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite import aggregate
from fedlite.data.base import Dataset
from fedlite.models import build, initial_params
from fedlite.seeds import derive, generator
from fedlite.tensors import add, subtract
from fedlite.train import local_train
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Params, Result
from fedlite.virtual.kernel import available, supports, train_cohort

Tell = Callable[[str], None]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn": ("cnn", {}),
    "mobilenet_v2": ("mobilenet_v2", {"input_shape": (1, 28, 28), "num_classes": 10, "stem_stride": 1}),
}


@dataclass(frozen=True)
class Setting:
    """How the updates come about: `rounds` rounds of `cohort` clients before the clients whose updates are coded."""

    rounds: int = 5
    cohort: int = 10
    samples: int = 200
    alpha: float = 0.3
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(epochs=1, batch_size=10, learning_rate=0.05)
    )

    def record(self) -> dict[str, Any]:
        """For the results, and for a cache's name."""
        return {
            "data": "fashion_mnist", "rounds": self.rounds, "cohort": self.cohort, "samples": self.samples,
            "dirichlet_alpha": self.alpha, "epochs": self.train.epochs, "batch_size": self.train.batch_size,
            "learning_rate": self.train.learning_rate,
        }  # fmt: skip


def client_samples(labels: NDArray[np.int64], seed: int, name: str, setting: Setting) -> NDArray[np.int64]:
    """Which samples a client has: classes in proportions of its own. (Hsu et al. 2019, §3: q ~ Dir(α p), p uniform)"""
    rng = generator(seed, "client", name)
    classes = np.unique(labels)
    counts = rng.multinomial(setting.samples, rng.dirichlet(np.full(classes.size, setting.alpha)))
    picks = [
        rng.choice(np.flatnonzero(labels == label), count, replace=False)
        for label, count in zip(classes, counts, strict=True)
    ]
    return np.concatenate(picks)


def client_update(
    model: str, data: Dataset, setting: Setting, seed: int, cache: Path, threads: int, tell: Tell
) -> tuple[Params, dict[str, Array]]:
    """(the model before, local − global) of the client of this seed; both are kept in `cache`."""
    text = "-".join(str(value) for value in setting.record().values())
    place = cache / f"{model}-{text}-seed{seed}.npz"
    if not place.exists():
        params = _rounds(model, data, setting, seed, threads, tell)
        [trained] = _train(model, params, data, setting, seed, ["coded"], threads)
        _save(place, {"global": params, "update": subtract(trained.params, params)})
    stored = _load(place)
    return stored["global"], stored["update"]


def _rounds(model: str, data: Dataset, setting: Setting, seed: int, threads: int, tell: Tell) -> Params:
    """FedAvg from the initial model, other clients in each round."""
    name, options = MODELS[model]
    params: Params = initial_params(build(name, **options), derive(seed, "model"))
    for number in range(1, setting.rounds + 1):
        clients = [f"round {number} client {each}" for each in range(setting.cohort)]
        trained = _train(model, params, data, setting, seed, clients, threads)
        total = aggregate.start(params)
        for client, each in zip(clients, trained, strict=True):
            total = aggregate.add(total, Result(client, subtract(each.params, params), each.num_examples))
        params = add(params, aggregate.finish(total))
        accuracy = np.mean([each.accuracy for each in trained])
        tell(f"{model} seed {seed} round {number}: accuracy while training {accuracy:.3f}")
    return params


def _train(
    model: str,
    params: Params,
    data: Dataset,
    setting: Setting,
    seed: int,
    clients: Sequence[str],
    threads: int,
) -> list[Any]:
    """The cohort's results, on the simulator's compiled engine where it knows the model."""
    name, options = MODELS[model]
    module = build(name, **options)
    parts = [client_samples(data.y, seed, client, setting) for client in clients]
    samples = [(data.x[part], data.y[part]) for part in parts]
    seeds = [derive(seed, "training", client) for client in clients]
    if available() is None and supports(module, setting.train) is None:
        return train_cohort(module, params, samples, setting.train, seeds=seeds, threads=threads)
    return [
        local_train(module, params, x, y, setting.train, seed=each)
        for (x, y), each in zip(samples, seeds, strict=True)
    ]


def _save(place: Path, groups: dict[str, Params]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    names = {group: [*params] for group, params in groups.items()}
    arrays: dict[str, Any] = {
        f"{group}{index}": value
        for group, params in groups.items()
        for index, value in enumerate(params.values())
    }
    new = place.with_suffix(".new")
    with new.open("wb") as stream:
        np.savez(stream, names=json.dumps(names), **arrays)
    os.replace(new, place)


def _load(place: Path) -> dict[str, dict[str, Array]]:
    with np.load(place, allow_pickle=False) as stored:
        names = json.loads(str(stored["names"]))
        return {
            group: {name: stored[f"{group}{index}"] for index, name in enumerate(keys)}
            for group, keys in names.items()
        }
