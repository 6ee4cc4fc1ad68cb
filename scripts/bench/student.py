"""A small student in a federation against the dense float32 network: accuracy, size, work, and time of a local epoch.

    python scripts/bench/student.py --data-dir DATA           three seeds
    python scripts/bench/student.py --data-dir DATA --quick   one seed, a third of the rounds

Fashion-MNIST: 50 clients by Dirichlet(0.3), 10 a round, one epoch in batches of 20. The dense network is McMahan's CNN
in float32. The student is the same network, structurally pruned before the first round, so that it is smaller for
devices, updates and files, and trained int8-aware. Both begin at random, and run through the simulator's rounds.
Accuracy is on the 10,000 test images, the mean of the last five rounds; the student's is computed rounded, as int8.

The taught student learns from soft labels too. Its teacher is the dense network, trained by its owner on 10,000 images
that no client holds (the other runs do not see them: their clients hold the same 50,000).

A local epoch is fedlite.train.local_train, what a device runs, on 600 images with one thread, the two in turn.
`distillation_gain_points` is the mean over seeds of taught less untaught; `spread_points` is the larger of the two's
standard deviations over seeds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from fedlite.apps.job import Workshop, make_job, node, unsigned  # noqa: E402
from fedlite.apps.server import run_with  # noqa: E402
from fedlite.apps.settings import JobSettings  # noqa: E402
from fedlite.apps.stacked import Stacked  # noqa: E402
from fedlite.data.base import Dataset  # noqa: E402
from fedlite.data.partition import split  # noqa: E402
from fedlite.data.spec import open_data  # noqa: E402
from fedlite.distill import load_teacher  # noqa: E402
from fedlite.ledger.store import Ledger  # noqa: E402
from fedlite.models import ModelSpec, initial_params  # noqa: E402
from fedlite.models.registry import resolve, skeleton  # noqa: E402
from fedlite.models.saved import save_model  # noqa: E402
from fedlite.modules import module_of  # noqa: E402
from fedlite.rounds import Model  # noqa: E402
from fedlite.seeds import derive, generator  # noqa: E402
from fedlite.train import TrainSettings, local_train  # noqa: E402
from fedlite.uplink import Clear  # noqa: E402
from fedlite.virtual.engines.compiled import Compiled  # noqa: E402
from fedlite.virtual.kernel import evaluate, train_cohort  # noqa: E402
from fedlite.virtual.kernel.heap import keep_freed_memory  # noqa: E402
from fedlite.virtual.lessons import taught  # noqa: E402
from fedlite.virtual.samples import Picked  # noqa: E402
from fedlite.virtual.workload import forward_flops  # noqa: E402

CLIENTS, COHORT, PUBLIC, LAST = 50, 10, 10_000, 5
CHANNELS = 0.75  # share of every layer's channels that goes
ALPHA, TEMPERATURE = 0.3, 4.0
TEACHER = TrainSettings(epochs=8, batch_size=20, learning_rate=0.05, momentum=0.5)
JOB: dict[str, Any] = {
    "model": "cnn", "cohort": COHORT, "epochs": 1, "batch_size": 20, "learning_rate": 0.05, "sparsity": 0.0,
    "uplink_codec": "plain", "downlink_codec": "float32", "evaluate_every": 0, "dataset": "fashion_mnist",
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=None, help="holds fashion_mnist; else $FEDLITE_DATA")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--seeds", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2, 3]
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one seed, a third of the rounds: a rough idea")
    args = parser.parse_args()
    rounds, seeds = (args.rounds // 3, args.seeds[:1]) if args.quick else (args.rounds, args.seeds)
    torch.set_num_threads(1)
    keep_freed_memory()
    train, test = (
        open_data("fashion_mnist", split=each, data_dir=args.data_dir) for each in ("train", "test")
    )
    found: dict[str, list[float]] = {"dense": [], "student": [], "taught": []}
    models: dict[str, Model] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in seeds:
            world = World.of(train, test, seed, args.threads, Path(name) / str(seed))
            for kind, settings in students(world, seed).items():
                began = time.monotonic()
                models[kind], accuracy = federate(world, kind, replace(settings, rounds=rounds))
                found[kind].append(100 * accuracy)
                took = time.monotonic() - began
                print(f"seed {seed}  {kind:<8} {accuracy:.2%}  ({took:.0f} s)", file=sys.stderr, flush=True)
        epochs = epoch_seconds(train, models)
    figures = summary(found, models, epochs)
    for key, value in figures.items():
        print(f"{key:<26} {value}")
    record = {"rounds": rounds, "seeds": seeds, "clients": CLIENTS, "channels": CHANNELS, "alpha": ALPHA}
    more = {
        "temperature": TEMPERATURE,
        "job": JOB,
        "accuracy": found,
        "epoch_seconds": epochs,
        "commit": _commit(),
    }
    print(json.dumps(figures | record | more))
    return 0


@dataclass(frozen=True)
class World:
    """One seed's clients, the teacher they may have, and where the runs are kept."""

    train: Dataset
    parts: list[Any]
    test: Dataset
    threads: int
    folder: Path

    @staticmethod
    def of(train: Dataset, test: Dataset, seed: int, threads: int, folder: Path) -> "World":
        order = generator(seed, "public").permutation(len(train))
        private = train.take(np.sort(order[PUBLIC:]))
        public = train.take(np.sort(order[:PUBLIC]))
        folder.mkdir()
        made = World(private, split(private, "dirichlet:0.3", CLIENTS, seed), test, threads, folder)
        made.train_teacher(public, seed)
        return made

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher.safetensors"

    def train_teacher(self, public: Dataset, seed: int) -> None:
        spec = resolve("cnn", {})
        params = initial_params(skeleton(spec), derive(seed, "teacher"))
        (done,) = train_cohort(
            module_of(spec.to_json(), 32),
            params,
            [(public.x, public.y)],
            TEACHER,
            seeds=[derive(seed, "teacher")],
        )
        save_model(self.teacher, spec.to_json(), 32, done.params)
        accuracy = measure(self, spec.to_json(), 32, done.params)
        print(f"seed {seed}  the teacher alone {accuracy:.2%}", file=sys.stderr, flush=True)


def students(world: World, seed: int) -> dict[str, JobSettings]:
    small = JobSettings(**JOB, seed=seed, bits=8, channels=CHANNELS)
    return {
        "dense": JobSettings(**JOB, seed=seed, bits=32),
        "student": small,
        "taught": replace(small, teacher=world.teacher, distill_alpha=ALPHA, temperature=TEMPERATURE),
    }


class Quiet:
    """A watcher that says nothing."""

    def status(self, text: str) -> None:
        pass

    def row(self, row: Any) -> None:
        pass


def federate(world: World, kind: str, settings: JobSettings) -> tuple[Model, float]:
    """(the last model, the mean accuracy after each of the last rounds)."""
    stop, watcher, workshop = Event(), Quiet(), Workshop(settings, world.test)
    teacher = load_teacher(settings.teacher) if settings.teacher else None

    def share(client: int) -> Picked:
        return Picked(world.train.x, world.train.y, world.parts[client])

    asked = taught(share, teacher.logits) if teacher is not None else share
    scores = []
    with (
        Ledger.open(world.folder / f"{kind}.db", settings.identity()) as ledger,
        Stacked(
            settings=settings, ledger=ledger, clients=CLIENTS, watcher=watcher, stop=stop, memory=2**31,
            engine_of=lambda work, clients: Compiled(asked, world.threads), folder=world.folder,
            threads=world.threads,
        ) as crew,
    ):  # fmt: skip
        for last in range(settings.rounds - LAST + 1, settings.rounds + 1):
            job = make_job(Workshop(replace(settings, rounds=last), world.test), Clear(), unsigned, node)
            model = run_with(crew, job, ledger, watcher, stop)
            scores.append(measure(world, workshop.spec, settings.bits, model.params))
    return model, statistics.fmean(scores)


def measure(world: World, spec: str, bits: int, params: Any) -> float:
    """Test accuracy, computed at `bits`."""
    test = world.test
    return evaluate(module_of(spec, bits), params, test.x, test.y, bits=bits, threads=world.threads)[
        "accuracy"
    ]


def epoch_seconds(train: Dataset, models: dict[str, Model]) -> dict[str, float]:
    """Median seconds of a local epoch, dense and student in turn."""
    x, y, taken = train.x[:600], train.y[:600], {"dense": [], "student": []}
    for turn in range(7):
        for kind, bits in (("dense", 32), ("student", 8)):
            model = models[kind]
            settings = TrainSettings(batch_size=20, bits=bits)
            began = time.monotonic()
            local_train(module_of(model.spec, bits), model.params, x, y, settings, seed=turn)
            taken[kind].append(time.monotonic() - began)
    return {kind: round(statistics.median(values[1:]), 4) for kind, values in taken.items()}


def summary(
    found: dict[str, list[float]], models: dict[str, Model], epochs: dict[str, float]
) -> dict[str, Any]:
    dense, small = (skeleton(ModelSpec.from_json(models[kind].spec)) for kind in ("dense", "student"))
    mean = {kind: statistics.fmean(values) for kind, values in found.items()}
    spread = max(
        statistics.stdev(found[kind]) if len(found[kind]) > 1 else 0.0 for kind in ("student", "taught")
    )
    counts = [sum(each.numel() for each in net.parameters()) for net in (small, dense)]
    shape = (1, 28, 28)
    return {
        "params_ratio": round(counts[0] / counts[1], 4),
        "macs_ratio": round(forward_flops(small, shape) / forward_flops(dense, shape), 4),
        "accuracy_gap_points": round(mean["dense"] - mean["taught"], 2),
        "accuracy_gap_untaught": round(mean["dense"] - mean["student"], 2),
        "epoch_time_ratio": round(epochs["student"] / epochs["dense"], 3),
        "distillation_gain_points": round(mean["taught"] - mean["student"], 2),
        "spread_points": round(spread, 2),
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
