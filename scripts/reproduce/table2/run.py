"""One run: a cell at one learning rate and one seed, up to a round; killed at any time, it goes on where it was."""

import json
import math
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlite.data.base import Dataset
from fedlite.data.partition import split
from fedlite.data.spec import open_data
from fedlite.errors import StateError, UpdateError
from fedlite.models import build, initial_params
from fedlite.rounds import Streaming, sample
from fedlite.seeds import derive, generator
from fedlite.strategies.fedavg import FedAvg
from fedlite.tensors import subtract
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Params, Result
from fedlite.virtual.kernel import evaluate, train_cohort
from scripts.reproduce.table2.cells import CLIENTS, COHORT, Cell, crossing, rate

SAVE_SECONDS = 20.0  # what a kill may cost
PIECE = 250  # images tested at once
ENOUGH_ERRORS = 0.015  # of the test set: a model with more is below the target, and is not tested to the end
LOST_ROUNDS, LOST_ACCURACY = 20, 0.2  # so many rounds in a row below that, after a start as long: diverged


@dataclass(frozen=True)
class World:
    """What all runs share: the data, the model, and how much of the machine they may use."""

    train: Dataset
    test: Dataset
    model: str = "cnn"
    clients: int = CLIENTS
    cohort: int = COHORT
    threads: int = 1


@dataclass(frozen=True)
class State:
    """A run so far: the accuracy after each round, the model after the last. `seconds` is what it took, `commit`
    the code that ran last.
    """

    curve: tuple[float, ...] = ()
    diverged: bool = False
    seconds: float = 0.0
    commit: str = ""
    params: Params = field(default_factory=dict)

    @property
    def crossing(self) -> float | None:
        """The round at which the target was reached."""
        return crossing(self.curve)

    @property
    def over(self) -> bool:
        """Nothing is left to find out."""
        return self.diverged or self.crossing is not None


def mnist(data_dir: Path | None, threads: int) -> World:
    """The paper's data and model. The test images are put in a random order: see `accuracy`."""
    train, test = (open_data("mnist", split=each, data_dir=data_dir) for each in ("train", "test"))
    test = test.take(generator(0, "test order").permutation(len(test)))
    return World(train, test, threads=threads)


def place_of(folder: Path, cell: Cell, place: int, seed: int) -> Path:
    """Where a run is kept."""
    return folder / cell.name / f"he-rate{rate(place):g}-seed{seed}.npz"


def advance(world: World, cell: Cell, place: int, seed: int, cap: int, file: Path) -> State:
    """Run until the target is reached, training diverges, or round `cap` is done; kept in `file` on the way."""
    state = load(file)
    began = saved = time.monotonic()
    spent = state.seconds
    while not state.over and len(state.curve) < cap:
        state = one_round(world, cell, place, seed, state)
        now = time.monotonic()
        state = replace(state, seconds=spent + now - began, commit=_commit())
        if state.over or len(state.curve) >= cap or now - saved > SAVE_SECONDS:
            save(file, state)
            saved = now
    return state


def one_round(world: World, cell: Cell, place: int, seed: int, state: State) -> State:
    """The next round, and the accuracy after it. (McMahan 2017, Algorithm 1)"""
    number = len(state.curve) + 1
    model = _model(world.model)
    params = state.params or begin(model, derive(seed, "model"))
    parts = _parts(world.train, cell.scheme, world.clients, seed)
    chosen = sample(range(world.clients), world.cohort, seed, number)
    data = [(world.train.x[parts[client]], world.train.y[parts[client]]) for client in chosen]
    settings = TrainSettings(epochs=cell.epochs, batch_size=cell.batch_size, learning_rate=rate(place))
    seeds = [derive(seed, "client", number, client) for client in chosen]
    trained = train_cohort(model, params, data, settings, seeds=seeds, threads=world.threads)
    results = (
        Result(str(client), subtract(each.params, params), each.num_examples)
        for client, each in zip(chosen, trained, strict=True)
    )
    try:
        params = Streaming(FedAvg()).combine(number, params, {}, results).params
        curve = (*state.curve, accuracy(world, params))
    except UpdateError:  # a weight that is no number
        return replace(state, diverged=True)
    late = curve[LOST_ROUNDS:][-LOST_ROUNDS:]
    lost = len(late) == LOST_ROUNDS and max(late) < LOST_ACCURACY
    return replace(state, curve=curve, params=params, diverged=lost)


def begin(model: nn.Module, seed: int) -> Params:
    """Weights to begin with, of which the paper says nothing.

    Normal of variance 2 / inputs (He et al. 2015, §2.2), cut at two deviations, so that layers keep the size of what
    they are given; biases and the last layer are 0, so that no class is preferred.
    """
    initial = initial_params(model, seed)
    last = next(name for name, value in reversed(initial.items()) if value.ndim == 2)
    params = {name: np.zeros_like(value) for name, value in initial.items()}
    for name, value in params.items():
        if value.ndim > 1 and name != last:
            random = generator(seed, "he", name)
            far = random.standard_normal(value.shape)
            while (beyond := np.abs(far) > 2).any():
                far[beyond] = random.standard_normal(int(beyond.sum()))
            value[:] = far * math.sqrt(2 / value[0].size)
    return params


def accuracy(world: World, params: Params) -> float:
    """The share of test images that are classified rightly.

    Testing costs as much as training, so it ends once more errors are found than the target leaves room for,
    half as many again; the value is then that on the images seen, which are in random order.
    """
    model, x, y = _model(world.model), world.test.x, world.test.y
    seen = errors = 0
    while seen < len(y) and errors <= ENOUGH_ERRORS * len(y):
        piece = slice(seen, seen + PIECE)
        found = evaluate(model, params, x[piece], y[piece], threads=world.threads)
        errors += round((1 - found["accuracy"]) * len(y[piece]))
        seen += len(y[piece])
    return (seen - errors) / seen


def save(file: Path, state: State) -> None:
    """Replace the file as a whole. The model is left out when it is needed no more."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head = {
        "diverged": state.diverged,
        "seconds": round(state.seconds, 1),
        "commit": state.commit,
        "names": [*state.params],
    }
    arrays = {} if state.over else {f"p{index}": value for index, value in enumerate(state.params.values())}
    new = file.with_suffix(".new")
    with new.open("wb") as stream:
        np.savez(stream, head=json.dumps(head), curve=np.array(state.curve), **_any(arrays))
    os.replace(new, file)


def load(file: Path, *, curve_only: bool = False) -> State:
    """The run as `save` left it; an empty one where there is none."""
    if not file.exists():
        return State()
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            head = json.loads(str(stored["head"]))
            held = not curve_only and "p0" in stored
            names: Sequence[str] = head["names"] if held else ()
            params = {name: stored[f"p{index}"] for index, name in enumerate(names)}
            curve = tuple(float(value) for value in stored["curve"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise StateError(
            f"{file} is damaged: {error}", remedy="remove it to run again from the start"
        ) from error
    return State(curve, bool(head["diverged"]), float(head["seconds"]), str(head["commit"]), params)


def _any(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """np.savez's own options are typed as bool: any names beside them are Any."""
    return dict(arrays)


@cache
def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


@cache
def _model(name: str) -> nn.Module:
    return build(name)


@cache
def _parts(train: Dataset, scheme: str, clients: int, seed: int) -> list[NDArray[np.int64]]:
    return split(train, scheme, clients, derive(seed, "partition"))
