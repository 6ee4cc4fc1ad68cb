"""Bytes of a federation: small updates both ways against float32 FedAvg, and against Flower's own, at equal accuracy.

    python scripts/bench/bytes.py --data-dir DATA             three seeds
    python scripts/bench/bytes.py --data-dir DATA --quick     one seed, six rounds: the figures mean little

Fashion-MNIST, McMahan's CNN (1.66 M parameters), 100 clients of 200 samples by Dirichlet(0.3), 10 a round, one epoch in
batches of 10 at rate 0.05, 40 rounds, through `python -m simulations`. `float32` sends every value as it is; `small` is
the codecs given here; `student` is a structurally pruned network (a share of every layer's channels goes before the
first round) with the same codecs. Bytes are of payloads, as the device would send and be sent them.

`uplink_ratio` and `downlink_ratio`: bytes of float32 FedAvg (four for each parameter and client, each way) in one of
`small`. Accuracy swings by several points from round to round, so wherever it counts it is the mean of the last five
rounds. `accuracy_gap_points`: float32 less small in the end. The target is what float32 has at round 25; `rounds_ratio`
is rounds to it, sums over seeds, of small by float32. `bytes_to_target_ratio`: bytes both ways, all clients, until the
target, of Flower's stock FedAvg (its own simulation and strategy, a plain torch client, the arrays in its messages) in
one of `small`. Keys that end in `_raw` take single rounds for means: the first round at which each is there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from local import ROOT, report, setting

from fedlite.models.registry import resolve
from fedlite.modules import shapes_of

CLIENTS, COHORT, LAST = 100, 10, 5
JOB = {
    "dataset": "fashion_mnist", "model": "cnn", "partition": "dirichlet:0.3:200", "clients": CLIENTS, "cohort": COHORT,
    "epochs": 1, "batch-size": 10, "learning-rate": 0.05, "bits": 32, "sparsity": 0, "evaluate-every": 1,
}  # fmt: skip
TARGET_ROUND = 25


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-dir", type=Path, default=os.environ.get("FEDLITE_DATA"), help="holds fashion_mnist"
    )
    parser.add_argument("--uplink-codec", default="small")
    parser.add_argument("--downlink-codec", default="exact")
    parser.add_argument(
        "--channels", type=float, default=0.5, help="share of channels that the student loses"
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 3])
    parser.add_argument(
        "--without-flower", action="store_true", help="no stock FedAvg: those ratios are left out"
    )
    parser.add_argument("--run-dir", type=Path, default=None, help="keep runs here, and go on from them")
    parser.add_argument("--quick", action="store_true", help="one seed, six rounds")
    args = parser.parse_args()
    if args.data_dir is None:
        parser.error("--data-dir, or $FEDLITE_DATA, must name the folder that holds fashion_mnist")
    rounds, seeds = (6, args.seeds[:1]) if args.quick else (args.rounds, args.seeds)
    kinds: dict[str, list[str]] = {
        "float32": ["--uplink-codec", "plain", "--downlink-codec", "plain"],
        "small": ["--uplink-codec", args.uplink_codec, "--downlink-codec", args.downlink_codec],
    }
    kinds["student"] = [*kinds["small"], "--channels", str(args.channels)]
    found: dict[str, list[Curve]] = {kind: [] for kind in [*kinds, "flower"]}
    with tempfile.TemporaryDirectory() as temporary:
        place = args.run_dir or Path(temporary)
        for seed in seeds:
            for kind, flags in kinds.items():
                found[kind].append(federate(place / f"{kind}-{seed}", flags, args.data_dir, rounds, seed))
                told(kind, seed, found[kind][-1])
            if not args.without_flower:
                target = {over: target_of(found["float32"][-1], over) for over in (1, LAST)}
                found["flower"].append(
                    flower(args.data_dir, rounds, seed, target, place / f"flower-{seed}.json")
                )
                told("flower", seed, found["flower"][-1])
    print()
    report(
        figures(found),
        setting(
            rounds=rounds, seeds=seeds, uplink=args.uplink_codec, downlink=args.downlink_codec, channels=args.channels,
            flower="stock FedAvg, flwr simulation", quick=args.quick,
        ),
        more={"curves": {kind: [c.record() for c in curves] for kind, curves in found.items()}},
    )  # fmt: skip
    return 0


@dataclass(frozen=True)
class Curve:
    """A run: test accuracy after each round, and bytes up and down until then."""

    accuracy: Sequence[float]
    up: Sequence[int]
    down: Sequence[int]

    def at(self, round_num: int, over: int) -> float:
        """Mean accuracy of that round and those before it, `over` in all."""
        return float(np.mean(self.accuracy[max(0, round_num - over) : round_num]))

    def reaches(self, target: float, over: int) -> int | None:
        """The first round with that accuracy, from 1."""
        rounds = range(min(over, len(self.accuracy)), len(self.accuracy) + 1)
        return next((each for each in rounds if self.at(each, over) >= target), None)

    def bytes_to(self, target: float, over: int) -> int | None:
        """Bytes both ways until that round."""
        place = self.reaches(target, over)
        return None if place is None else self.up[place - 1] + self.down[place - 1]

    @property
    def last(self) -> float:
        """Accuracy in the end, in points."""
        return 100 * self.at(len(self.accuracy), LAST)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"accuracy": [round(a, 4) for a in self.accuracy], "up": self.up[-1], "down": self.down[-1]}


def federate(folder: Path, flags: list[str], data_dir: Path, rounds: int, seed: int) -> Curve:
    """`python -m simulations`, and what its metrics.jsonl says."""
    job = JOB | {"data-dir": data_dir, "rounds": rounds, "seed": seed, "run-dir": folder}
    options = [text for name, value in job.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "simulations", *options, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clients = [list(row["clients"].values()) for row in rows if row.get("clients")]
    up, down = (
        np.cumsum([sum(each[key] for each in some) for some in clients]) for key in ("bytes_up", "bytes_down")
    )
    return Curve([row["accuracy"] for row in rows if row.get("clients")], up.tolist(), down.tolist())


def flower(data_dir: Path, rounds: int, seed: int, target: dict[int, float], kept: Path) -> Curve:
    """Flower's stock FedAvg until it is there by a mean of so many rounds, for each, or the last round."""
    if not kept.exists():
        job = {
            "dataset": "fashion_mnist", "data_dir": str(data_dir.resolve()), "partition": JOB["partition"],
            "seed": seed, "clients": CLIENTS, "cohort": COHORT, "model": resolve("cnn", {}).to_json(), "rounds": rounds,
            "batch_size": JOB["batch-size"], "learning_rate": JOB["learning-rate"], "target": target, "threads": 2,
        }  # fmt: skip
        command = [sys.executable, str(ROOT / "scripts/bench/stock_fedavg/run.py"), json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stdout}{done.stderr}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout.splitlines()[-1])
    curve = json.loads(kept.read_text())["curve"]
    return Curve(*([row[key] for row in curve] for key in ("accuracy", "up", "down")))


def target_of(float32: Curve, over: int) -> float:
    """The accuracy of float32 at round 25, or at its last."""
    return float32.at(min(TARGET_ROUND, len(float32.accuracy)), over)


def figures(found: dict[str, list[Curve]]) -> dict[str, Any]:
    """What the issue's keys say; null where a run did not reach the target."""
    whole = 4 * sum(value.size for value in shapes_of(resolve("cnn", {}).to_json(), 32).values())
    plain, small, student, stock = (found[kind] for kind in ("float32", "small", "student", "flower"))
    sent = sum(len(curve.accuracy) for curve in small) * COHORT * whole
    gaps = [p.last - s.last for p, s in zip(plain, small, strict=True)]

    def total(curves: list[Curve], what: str, over: int) -> float | None:
        each = [
            getattr(curve, what)(target_of(p, over), over) for curve, p in zip(curves, plain, strict=False)
        ]
        return sum(each) if each and None not in each else None

    def ratio(one: list[Curve], other: list[Curve], what: str, over: int = LAST) -> float | None:
        above, below = total(one, what, over), total(other, what, over)
        return round(above / below, 2) if above is not None and below is not None else None

    return {
        "uplink_ratio": round(sent / sum(curve.up[-1] for curve in small), 1),
        "downlink_ratio": round(sent / max(sum(curve.down[-1] for curve in small), 1), 1),
        "accuracy_gap_points": round(float(np.mean(gaps)), 2),
        "accuracy_gap_spread": round(float(np.std(gaps, ddof=1)), 2) if len(gaps) > 1 else None,
        "rounds_ratio": ratio(small, plain, "reaches"),
        "bytes_to_target_ratio": ratio(stock, small, "bytes_to"),
        "bytes_to_target_ratio_student": ratio(stock, student, "bytes_to"),
        "rounds_ratio_raw": ratio(small, plain, "reaches", 1),
        "bytes_to_target_ratio_raw": ratio(stock, small, "bytes_to", 1),
        "bytes_to_target_ratio_student_raw": ratio(stock, student, "bytes_to", 1),
        **{
            f"accuracy_{kind}": [round(c.last, 2) for c in found[kind]]
            for kind in ("float32", "small", "student")
        },
        **{
            f"rounds_{kind}{end}": [
                c.reaches(target_of(p, over), over) for c, p in zip(found[kind], plain, strict=False)
            ]
            for end, over in (("", LAST), ("_raw", 1))
            for kind in found
        },
    }


def told(kind: str, seed: int, curve: Curve) -> None:
    sizes = f"up {curve.up[-1] / 1e6:.1f} MB  down {curve.down[-1] / 1e6:.1f} MB"
    print(f"seed {seed}  {kind:<8} {curve.last:.2f} %  {sizes}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
