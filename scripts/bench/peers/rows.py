"""The rows of the simulators' table: how one is made, by a process of its own, and what it says."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from data import cut
from environments import Unavailable, interpreter
from process import ROOT, figures_of
from workload import Workload

HERE = Path(__file__).resolve().parent
CACHE = ROOT / "run"
CORES = 2
SITTINGS = 3
NEAR = 1.3  # times as fast: less may be the machine's mood


@dataclass(frozen=True)
class Peer:
    """A program that plays a workload: its environment, its adapter, and the variants that are tried."""

    environment: str
    adapter: str
    variants: tuple[str, ...] = ("",)
    framework: bool = True
    models: tuple[str, ...] = ("mlp", "pooled_cnn", "mobilenet_v2")
    launcher: tuple[str, ...] = ()


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={CORES}")
PEERS = {
    "flower": Peer("own", "flower_ray.py", models=("mlp", "pooled_cnn", "mobilenet_v2", "none")),
    "blazefl": Peer("blazefl", "blazefl_pools.py", ("threads", "processes")),
    "pfl": Peer("pfl", "pfl_research.py", launcher=TORCHRUN),
    "fedjax": Peer("fedjax", "fedjax_backends.py", ("jit", "pmap"), models=("mlp", "pooled_cnn")),
    "jax": Peer("jax", "plain_jax.py", ("vmap", "map"), framework=False, models=("mlp", "pooled_cnn")),
    "torch": Peer("own", "plain_torch.py", ("pool", "threads"), framework=False),
}


@dataclass
class Bench:
    """The rows so far, and how to make more. A row is (part, program, variant) → figures, or an error."""

    seed: int
    quick: bool
    peers: list[str]
    codecs: list[str]
    rows: dict[str, dict[str, Any]]
    plays: dict[str, tuple[list[str], Workload]]  # how each row was made

    def workload(self, part: str) -> Workload:
        """The work of one part, which everybody gets."""
        data, rounds = CACHE / "peers-data", 2 if self.quick else 20
        large = part == "large"
        folder = "" if part == "noop" else str(cut(data, 10, 20, wide=True) if large else cut(data, 1000, 60))
        model = {"w1a": "mlp", "large": "mobilenet_v2", "noop": "none"}.get(part, "pooled_cnn")
        if part in ("w1a", "w1b"):
            _write_initial(model, Path(folder))
        return Workload(
            model=model, data=folder, clients=10 if large else 1000,
            cohort={"large": 10, "noop": 1000}.get(part, 40 if self.quick else 100),
            samples=20 if large else 60, epochs=1, batch_size=20, learning_rate=0.05, threads=CORES,
            warmup=1, rounds=rounds, seconds=1.0 if self.quick else 12.0, seed=self.seed,
        )  # fmt: skip

    def run(self, row: str, python: list[str], work: Workload) -> None:
        """One process to its end; its last line, or why there is none, is the row. Once more: rounds are added."""
        began = time.monotonic()
        found = figures_of(python, work, 100 if self.quick else 300)
        found["wall_seconds"] = round(time.monotonic() - began, 1)
        self.rows[row] = _together(self.rows.get(row), found, work.cohort)
        self.plays[row] = python, work
        print(line(row, self.rows[row]), file=sys.stderr, flush=True)

    def play_peers(self, part: str) -> None:
        """Everybody who was asked for, on this part's work."""
        work = self.workload(part)
        for name in self.peers:
            peer = PEERS[name]
            if self.quick and name == "flower" and part != "w1a":
                continue  # half a minute each time
            if work.model not in peer.models:
                if part != "noop":
                    self.rows[f"{part} {name}"] = {"error": f"not run: there is no {work.model} for it here"}
                continue
            try:
                python = interpreter(peer.environment, CACHE / "peers")
            except Unavailable as error:
                self.rows[f"{part} {name}"] = {"error": f"does not install: {error}"}
                continue
            for variant in peer.variants[: 1 if self.quick else None]:
                command = [python, *peer.launcher, str(HERE / peer.adapter)]
                self.run(f"{part} {name} {variant}".strip(), command, replace(work, variant=variant))

    def play_ours(
        self, part: str, variant: str, *, adapter: str = "fedlite_rounds.py", **changes: Any
    ) -> str:
        """fedlite on this part's work; the row's name."""
        row = " ".join(filter(None, (part, "fedlite", variant, *map(str, changes.values()))))
        command = [sys.executable, str(HERE / adapter)]
        self.run(row, command, replace(self.workload(part), variant=variant, **changes))
        return row

    def contest(self, *rows: str) -> None:
        """Run these once more, in turn, until each has run SITTINGS times; not those that could not run at all."""
        able = [row for row in rows if "error" not in self.rows[row]]
        for _ in range(1, 1 if self.quick or len(able) < 2 else SITTINGS):
            for row in able:
                self.run(row, *self.plays[row])

    def near_best(self, *programs: str) -> list[str]:
        """Those of some programs' rows that may be the fastest once they have run more than once."""
        rates = self._rates(programs)
        return [row for row, rate in rates.items() if rate > max(rates.values()) / NEAR]

    def rate(self, *programs: str) -> float | None:
        """The best clients/s among the rows of some programs."""
        return max(self._rates(programs).values(), default=None)

    def _rates(self, programs: tuple[str, ...]) -> dict[str, float]:
        return {
            row: each["clients_s"]
            for row, each in self.rows.items()
            if any(f"{row} ".startswith(f"{program} ") for program in programs) and "clients_s" in each
        }


def _together(before: dict[str, Any] | None, found: dict[str, Any], cohort: int) -> dict[str, Any]:
    """A row after another run of the same: all rounds count, and a run that failed is named beside them."""
    if before is None:
        return found
    wall = round(before["wall_seconds"] + found["wall_seconds"], 1)
    if "error" in found:
        return before | {"wall_seconds": wall, "failed": [*before.get("failed", []), found["error"]]}
    seconds = before["seconds"] + found["seconds"]
    return before | {
        "clients_s": cohort / float(np.median(seconds)),
        "rounds": len(seconds),
        "seconds": seconds,
        "sittings": [*before.get("sittings", [before["clients_s"]]), found["clients_s"]],
        "accuracy": found["accuracy"],
        "wall_seconds": wall,
    }


def _write_initial(model: str, folder: Path) -> None:
    """For peers that are not on torch: the weights that everybody begins with."""
    if not (path := folder / f"{model}.npz").exists():
        from torch_models import make

        np.savez(path, **{name: value.numpy() for name, value in make(model).state_dict().items()})


def line(row: str, found: dict[str, Any]) -> str:
    """A row for people."""
    if "error" in found:
        return f"  {row:<34} {found['error']}"
    accuracy = "" if found["accuracy"] is None else f"  accuracy {found['accuracy']:.3f}"
    spread = f"{min(found['seconds']):.3g}-{max(found['seconds']):.3g} s"
    failed = "".join(f"  one run failed: {reason}" for reason in found.get("failed", []))
    rounds = f"{found['rounds']} rounds of {spread}"
    return f"  {row:<34} {found['clients_s']:>10.1f} clients/s  {rounds}{accuracy}{failed}"
