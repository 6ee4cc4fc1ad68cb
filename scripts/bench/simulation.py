"""The simulator against other simulators: the same clients, data, model, steps and cores, side by side.

    python scripts/bench/simulation.py [--quick] [--only w1a,noop] [--peers flower,torch] [--seed 0]

Fashion-MNIST, 1000 clients × 60 samples, 100 per round, 1 epoch, batch 20, SGD 0.05, on two cores:

* w1a: MLP 784-64-10. w1b: CNN 1-16-32, 3×3, pooled 2×2. A round is all of it: the cohort trained, every client's
  update there, the mean taken. Clients per second from the median round after a warm-up. `_program`: rounds of
  `python -m simulations`, which also accounts for every byte, decides what counts, and commits durably.
* noop: clients that only answer, 1000 at once; and ours up to 100,000 (flatness: the rate there by that at 1000).
* pipeline: pruned to half, int8-aware and coded with error feedback, against plain: how many times as long whole
  rounds of `python -m simulations` take (`_engine`: training, codec and mean alone), for each of `--codecs`.
* large: MobileNetV2 0.35 at 32×32 with GroupNorm, 10 clients × 20 samples.
* ray: w1b's work, but of five epochs, on a local Ray cluster of two workers, against one.

Shared machines are slow for a minute and fast for another: where a figure is one program against another (ours and
the fastest framework of w1a and w1b, plain rounds and the pipeline, two workers and one), all run three times, in
turn, and a program's rate is from the median of all its rounds.

Peers: Flower's simulation on Ray, BlazeFL, pfl-research, FedJAX, each by its fastest documented way (variants are
tried and the best counts). Loops without a framework, on torch and on JAX, are shown too, and count as peers for the
large model. Each runs in a process of its own, in an environment of its own (run/peers, made with pip when it is
missing: minutes, which no figure and no promise of time includes). What cannot run is shown with its error.
`--quick` takes fewer and shorter rounds, of 40 clients, of w1a, w1b, noop and pipeline, beside FedJAX, pfl-research
and, on w1a, Flower: under 2 minutes on a quiet machine, and its ratios are rough. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "peers"), str(HERE.parents[1])]

import numpy as np  # noqa: E402
from data import cut  # noqa: E402
from environments import PINS, Unavailable, interpreter  # noqa: E402
from local import ROOT, setting  # noqa: E402
from process import figures_of  # noqa: E402
from workload import Workload  # noqa: E402

CACHE = ROOT / "run"
CORES = 2
PARTS = ("w1a", "w1b", "noop", "pipeline", "large", "ray")
QUICK_PARTS = ("w1a", "w1b", "noop", "pipeline")
QUICK_PEERS = ("flower", "pfl", "fedjax")
SITTINGS = 3
FLEETS = (1000, 10_000, 100_000)


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
        print(_line(row, self.rows[row]), file=sys.stderr, flush=True)

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
                command = [python, *peer.launcher, str(HERE / "peers" / peer.adapter)]
                self.run(f"{part} {name} {variant}".strip(), command, replace(work, variant=variant))

    def play_ours(
        self, part: str, variant: str, *, adapter: str = "fedlite_rounds.py", **changes: Any
    ) -> str:
        """fedlite on this part's work; the row's name."""
        row = " ".join(filter(None, (part, "fedlite", variant, *map(str, changes.values()))))
        command = [sys.executable, str(HERE / "peers" / adapter)]
        self.run(row, command, replace(self.workload(part), variant=variant, **changes))
        return row

    def contest(self, *rows: str | None) -> None:
        """Run these once more, in turn, until each has run SITTINGS times."""
        if None in rows or self.quick:
            return
        for _ in range(1, SITTINGS):
            for row in filter(None, rows):
                self.run(row, *self.plays[row])

    def fastest(self, *prefixes: str) -> str | None:
        """The row with the best clients/s among those of some programs."""
        rates = {
            name: each["clients_s"]
            for name, each in self.rows.items()
            if any(f"{name} ".startswith(f"{prefix} ") for prefix in prefixes) and "clients_s" in each
        }
        return max(rates, key=rates.__getitem__, default=None)

    def rate(self, *prefixes: str) -> float | None:
        """The best clients/s among the rows of some programs."""
        row = self.fastest(*prefixes)
        return None if row is None else float(self.rows[row]["clients_s"])


def _together(before: dict[str, Any] | None, found: dict[str, Any], cohort: int) -> dict[str, Any]:
    """A row's figures after another run of the same."""
    if before is None or "error" in before or "error" in found:
        return found
    seconds = before["seconds"] + found["seconds"]
    sittings = [*before.get("sittings", [before["clients_s"]]), found["clients_s"]]
    rate = cohort / float(np.median(seconds))
    return found | {"clients_s": rate, "rounds": len(seconds), "seconds": seconds, "sittings": sittings}


def _write_initial(model: str, folder: Path) -> None:
    """For peers that are not on torch: the weights that everybody begins with."""
    if not (path := folder / f"{model}.npz").exists():
        from torch_models import make

        np.savez(path, **{name: value.numpy() for name, value in make(model).state_dict().items()})


def engine_missing() -> str | None:
    """Why the compiled kernel cannot be used here, if it cannot."""
    from fedlite.virtual import kernel

    return kernel.available()


def play(bench: Bench, parts: list[str]) -> None:
    """Fill the table."""
    for part in ("w1a", "w1b", "large"):
        if part in parts:
            bench.play_ours(part, "compiled")
            if part == "large" and not bench.quick:
                bench.play_ours(part, "pool")
            bench.play_peers(part)
        if part in ("w1a", "w1b") and part in parts:
            bench.contest(f"{part} fedlite compiled", bench.fastest(*_programs(part, framework=True)))
    if "pipeline" in parts:
        for part in ("w1a", "w1b"):
            variants = ("plain", *(f"pipeline:{codec}" for codec in bench.codecs))
            bench.contest(*[bench.play_ours(part, each, adapter="fedlite_program.py") for each in variants])
            for codec in bench.codecs if not bench.quick else ():
                bench.play_ours(part, f"compiled+pipeline:{codec}", warmup=15)
            if part not in parts:
                bench.play_ours(part, "compiled")
    if "noop" in parts:
        for fleet in FLEETS[:: 2 if bench.quick else 1]:
            bench.play_ours("noop", "", clients=fleet, cohort=fleet)
        bench.play_peers("noop")
    if "ray" in parts:
        bench.contest(*[bench.play_ours("ray", "ray", threads=each, epochs=5) for each in (1, CORES)])


def figures(bench: Bench) -> tuple[dict[str, float | None], dict[str, str]]:
    """The figures by name, and for each that is null the reason."""
    rate, values = bench.rate, dict[str, float | None]()
    best = {part: rate(*_programs(part, framework=True)) for part in ("w1a", "w1b")}
    for part, rival in best.items():
        ours = rate(f"{part} fedlite compiled")
        values[f"{part}_clients_s"] = ours
        values[f"{part}_vs_flower"] = _ratio(ours, rate(f"{part} flower"))
        values[f"{part}_vs_best_peer"] = _ratio(ours, rival)
        values[f"{part}_vs_plain_loops"] = _ratio(ours, rate(*_programs(part, framework=False)))
    small, big = (rate(f"noop fedlite {fleet} {fleet}") for fleet in (FLEETS[0], FLEETS[-1]))
    values["noop_vs_flower"] = _ratio(small, rate("noop flower"))
    values["noop_flatness"] = _ratio(big, small)
    for part in ("w1a", "w1b"):
        plain = values[f"{part}_program_clients_s"] = rate(f"{part} fedlite plain")
        values[f"{part}_program_vs_flower"] = _ratio(plain, rate(f"{part} flower"))
        values[f"{part}_program_vs_best_peer"] = _ratio(plain, best[part])
        for codec in bench.codecs:
            name = f"pipeline_{part[-1]}" + ("" if codec == "int8" else f"_{codec}")
            values[name] = _ratio(plain, rate(f"{part} fedlite pipeline:{codec}"))
            engine = rate(f"{part} fedlite compiled+pipeline:{codec}")
            values[f"{name}_engine"] = _ratio(rate(f"{part} fedlite compiled"), engine)
    ours = rate("large fedlite compiled") or rate("large fedlite pool")
    values["large_vs_best_peer"] = _ratio(ours, rate(*(f"large {name}" for name in PEERS)))
    values["ray_speedup"] = _ratio(rate(f"ray fedlite ray {CORES} 5"), rate("ray fedlite ray 1 5"))
    reasons = {
        name: "not run, or one of its rows is an error" for name, value in values.items() if value is None
    }
    return values, reasons


def _programs(part: str, *, framework: bool) -> list[str]:
    return [f"{part} {name}" for name, peer in PEERS.items() if peer.framework == framework]


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def _line(row: str, found: dict[str, Any]) -> str:
    if "error" in found:
        return f"  {row:<34} {found['error']}"
    accuracy = "" if found["accuracy"] is None else f"  accuracy {found['accuracy']:.3f}"
    spread = f"{min(found['seconds']):.3g}-{max(found['seconds']):.3g} s"
    return (
        f"  {row:<34} {found['clients_s']:>10.1f} clients/s  {found['rounds']} rounds of {spread}{accuracy}"
    )


def _table(bench: Bench) -> Iterator[str]:
    for part in PARTS:
        chosen = {row: found for row, found in bench.rows.items() if row.split()[0] == part}
        yield from (
            _line(row, chosen[row]) for row in sorted(chosen, key=lambda r: -chosen[r].get("clients_s", 0))
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter rounds, one variant of each peer"
    )
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--peers", help=f"some of {','.join(PEERS)}, or none")
    parser.add_argument("--codecs", default="int8,sparse", help="of the pipeline, one after another")
    parser.add_argument("--seed", type=int, default=0, help="who takes part, and in which order they train")
    args = parser.parse_args()
    everybody = args.peers or ",".join(QUICK_PEERS if args.quick else PEERS)
    parts = (args.only or ",".join(QUICK_PARTS if args.quick else PARTS)).split(",")
    peers = [each for each in everybody.split(",") if each != "none"]
    if odd := (set(parts) - set(PARTS)) | (set(peers) - set(PEERS)):
        parser.error(f"unknown: {', '.join(sorted(odd))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the adapter that runs ends with this
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)  # everything started from here on inherits it
    bench = Bench(args.seed, args.quick, peers, args.codecs.split(","), {}, {})
    play(bench, parts)
    values, reasons = figures(bench)
    print("\n".join(_table(bench)))
    for name, value in values.items():
        print(f"  {name:<22} " + (f"{value:.4g}" if value is not None else f"null: {reasons[name]}"))
    work = {part: asdict(bench.workload(part)) for part in parts if part != "pipeline"}
    used = setting(
        seed=args.seed, quick=args.quick, cores=cores, load=os.getloadavg()[0], engine=engine_missing() or "compiled",
        processor=platform.processor() or platform.machine(), pins=PINS, workloads=work,
    )  # fmt: skip
    print(json.dumps(values | {"reasons": reasons, "rows": bench.rows, "settings": used}), flush=True)


if __name__ == "__main__":
    main()
