"""Real int8 training: the memory a training step needs, and what the model is worth after rounds of it.

    python scripts/bench/int8_training.py [--quick] [--seeds 3] [--part memory|accuracy] [--data-dir DATA]

Memory: peak of three steps at batch 16, above the process that has the model, its params and the data loaded, for
McMahan's CNN at 28×28 and MobileNetV2 (width 1.0, 32×32, stem stride 1, 10 classes, GroupNorm). Each measurement is
a process of its own, one thread: the same training is done once before, so that code and the library's caches are
there; freed memory is given back (malloc_trim), the peak begins again (clear_refs), and the figure is VmHWM after
less VmRSS before. Three programs: `int8` (fedlite.int8_training), `local` (fedlite.train.local_train, float32) and
`torch` (a plain loop of torch.optim.SGD in place, float32). Medians; the ratio is that of the lower of the two
float32 programs to int8, so everyone's result is left where it made it: int8's in integers, from which float32
tensors are computed one at a time; `all_at_once` adds a float32 copy of all.
Accuracy: Fashion-MNIST, 10 clients with IID parts, FedAvg, 5 rounds of one epoch, batch 16, CNN; test accuracy of
float32 training (in float32) less that of int8 training (in int8, as deployed), in points; mean over seeds.
The last line is one JSON object.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from local import ROOT, forget_peak, memory_bytes, report, setting

os.environ["OMP_NUM_THREADS"] = "1"  # of this process and those it starts, before any of them loads torch
BATCH, STEPS = 16, 3
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn": ("cnn", {}),
    "mobilenet": (
        "mobilenet_v2",
        {"input_shape": (3, 32, 32), "num_classes": 10, "width": 1.0, "stem_stride": 1},
    ),
}
PROGRAMS = ("torch", "local", "int8")


def training(program: str, model: str) -> Callable[[], Any]:
    """A call that trains three batches of random images; everything it needs is loaded."""
    import torch

    from fedlite.compress.quantize import prepare
    from fedlite.int8_training import int8_train
    from fedlite.models.bridge import params_of
    from fedlite.models.registry import build, spec_of
    from fedlite.train import batches, local_train
    from fedlite.train_settings import TrainSettings

    torch.set_num_threads(1)
    name, options = MODELS[model]
    net = build(name, **options)
    spec = spec_of(net)
    params = params_of(prepare(net) if program == "int8" else net)
    random = np.random.default_rng(0)
    x = random.random((BATCH * STEPS, *dict(spec.options)["input_shape"]), np.float32)  # type: ignore[misc]
    y = random.integers(0, 10, len(x))
    settings = TrainSettings(batch_size=BATCH, bits=8 if program == "int8" else 32)

    def plain() -> None:
        optimizer = torch.optim.SGD(net.parameters(), lr=settings.learning_rate)
        for chosen in batches(len(y), BATCH, 0):
            optimizer.zero_grad()
            logits = net(torch.from_numpy(x[chosen]))
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(y[chosen])).backward()
            optimizer.step()
        optimizer.zero_grad()

    calls = {
        "torch": plain,
        "local": lambda: local_train(net, params, x, y, settings, seed=0),
        "int8": lambda: int8_train(spec, params, x, y, settings, seed=0),
    }
    return calls[program]


def measure(program: str, model: str) -> None:
    """One measurement, in this process: megabytes and seconds per step, as JSON."""
    train = training(program, model)
    train()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = memory_bytes()
    forget_peak()
    began = time.monotonic()
    result = train()
    seconds = (time.monotonic() - began) / STEPS
    peak = memory_bytes("VmHWM") - before
    whole = dict(result.params) if program == "int8" else {}
    at_once = memory_bytes("VmHWM") - before if whole else peak
    print(json.dumps({"mb": peak / 1e6, "at_once_mb": at_once / 1e6, "step_seconds": seconds}))


def memory(repeats: int) -> dict[str, float]:
    """Figures of all programs and models, in turn."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(repeats):
        for model in MODELS:
            for program in PROGRAMS:
                command = [sys.executable, __file__, "--measure", program, model]
                done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
                row = json.loads(done.stdout.splitlines()[-1])
                found.setdefault((model, program), []).append(row)
                print(
                    f"{model:>10} {program:>6} {row['mb']:8.1f} MB {row['step_seconds']:.3f} s",
                    file=sys.stderr,
                )
    figures: dict[str, float] = {}
    for model in MODELS:
        for program in PROGRAMS:
            for key in ("mb", "step_seconds"):
                value = statistics.median(row[key] for row in found[model, program])
                figures[f"{model}_{program}_{key}"] = round(value, 4)
        at_once = statistics.median(row["at_once_mb"] for row in found[model, "int8"])
        figures[f"{model}_int8_all_at_once_mb"] = round(at_once, 2)
        lower = min(figures[f"{model}_torch_mb"], figures[f"{model}_local_mb"])
        figures[f"memory_ratio_{model}"] = lower / figures[f"{model}_int8_mb"]
    return figures


def accuracy(data_dir: Path | None, seeds: int, samples: int, rounds: int, rate: float) -> dict[str, Any]:
    """Mean test accuracy after the rounds, float32 and int8, and the gap in points."""
    import torch

    from fedlite.data.datasets import load
    from fedlite.seeds import generator

    torch.set_num_threads(1)
    train, test = (load("fashion_mnist", split, data_dir) for split in ("train", "test"))
    rows: dict[str, list[float]] = {"float32": [], "int8": []}
    for seed in range(seeds):
        order = generator(seed, "clients").permutation(len(train.y))[: 10 * samples].reshape(10, samples)
        parts = [(train.x[each], train.y[each]) for each in order]
        for kind, found in rows.items():
            found.append(federated(kind, parts, (test.x, test.y), seed, rounds, rate))
            print(f"  seed {seed} {kind:>8} {found[-1]:.4f}", file=sys.stderr, flush=True)
    gaps = [100 * (a - b) for a, b in zip(rows["float32"], rows["int8"], strict=True)]
    return {
        "accuracy_float32": statistics.mean(rows["float32"]),
        "accuracy_int8": statistics.mean(rows["int8"]),
        "accuracy_gap_points": statistics.mean(gaps),
        "gap_spread_points": statistics.stdev(gaps) if seeds > 1 else 0.0,
    }


def federated(
    kind: str, parts: list[Any], test: tuple[Any, Any], seed: int, rounds: int, rate: float
) -> float:
    """Test accuracy of the CNN after rounds of FedAvg over all clients."""
    from fedlite.compress.quantize import prepare
    from fedlite.int8_training import int8_train
    from fedlite.models.bridge import initial_params, params_of
    from fedlite.models.registry import build
    from fedlite.rounds import Streaming
    from fedlite.seeds import derive
    from fedlite.strategies.fedavg import FedAvg
    from fedlite.tensors import subtract
    from fedlite.train import evaluate, local_train
    from fedlite.train_settings import TrainSettings
    from fedlite.types import Result

    model, bits = build("cnn"), 8 if kind == "int8" else 32
    params: Any = params_of(prepare(model) if bits == 8 else model) | initial_params(model, seed)
    rule, state = Streaming(FedAvg()), FedAvg().init(params)
    settings = TrainSettings(batch_size=BATCH, learning_rate=rate, bits=bits)
    one = int8_train if bits == 8 else local_train
    for round_num in range(1, rounds + 1):

        def results(now: Any = params, number: int = round_num) -> Any:
            for client, (x, y) in enumerate(parts):
                done = one(model, now, x, y, settings, seed=derive(seed, "client", number, client))
                yield Result(str(client), subtract(done.params, now), done.num_examples)

        combined = rule.combine(round_num, params, state, results())
        params, state = combined.params, combined.state
    return evaluate(model, params, *test, bits=bits)["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one measurement each, one seed, small parts")
    parser.add_argument("--part", choices=("memory", "accuracy", "both"), default="both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=300, help="per client")
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("PROGRAM", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure)
        return
    seeds, samples, rounds = (1, 60, 2) if args.quick else (args.seeds, args.samples, 5)
    figures: dict[str, Any] = {}
    if args.part != "accuracy":
        figures |= memory(1 if args.quick else 3)
    if args.part != "memory":
        figures |= accuracy(args.data_dir, seeds, samples, rounds, args.rate)
    report(
        figures,
        setting(
            quick=args.quick, batch=BATCH, steps=STEPS, threads=1, clients=10, samples=samples, rounds=rounds,
            learning_rate=args.rate, seeds=list(range(seeds)), models={k: list(v) for k, v in MODELS.items()},
        ),
    )  # fmt: skip


if __name__ == "__main__":
    main()
