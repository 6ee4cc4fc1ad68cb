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

Shared machines are slow for a minute and fast for another: ours and the fastest framework of w1a and w1b (with those
that come near it), plain rounds and the pipeline, and one Ray worker and two run three times, in turn, and the rate is
from the median of all rounds.

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
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "peers"), str(HERE.parents[1])]

from environments import PINS  # noqa: E402
from local import setting  # noqa: E402
from rows import CORES, PEERS, Bench, line  # noqa: E402

PARTS = ("w1a", "w1b", "noop", "pipeline", "large", "ray")
QUICK_PARTS = ("w1a", "w1b", "noop", "pipeline")
QUICK_PEERS = ("flower", "pfl", "fedjax")
FLEETS = (1000, 10_000, 100_000)


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
            bench.contest(f"{part} fedlite compiled", *bench.near_best(*_programs(part, framework=True)))
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


def _table(bench: Bench) -> Iterator[str]:
    for part in PARTS:
        chosen = {row: found for row, found in bench.rows.items() if row.split()[0] == part}
        yield from (
            line(row, chosen[row]) for row in sorted(chosen, key=lambda r: -chosen[r].get("clients_s", 0))
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
