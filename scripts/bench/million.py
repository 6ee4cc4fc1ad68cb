"""A million virtual clients on one machine: memory, time to the first round, clients per second.

Synthetic data (the IID variant of SYNTHETIC, Li 2020) with 784 features and 60 samples a client, an MLP 784-64-10,
1000 clients drawn per round, one epoch in batches of 20. Each client's data are made when it is drawn. The simulation
runs in a process of its own, through `python -m simulations`.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1_000_000)
    parser.add_argument("--cohort", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="3 rounds, under two minutes")
    args = parser.parse_args()
    rounds = 3 if args.quick else args.rounds
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args.clients, args.cohort, rounds, Path(folder))
    for name in ("clients", "rss_gb", "startup_seconds", "clients_s", "accuracy"):
        print(f"{name:<16} {result[name]}")
    print(json.dumps(result))
    return 0


def measure(clients: int, cohort: int, rounds: int, folder: Path) -> dict[str, object]:
    """Run the simulation; watch its memory and when each round ends."""
    settings = {
        "dataset": "synthetic:iid:features=784:sizes=60", "model": "mlp", "clients": clients, "cohort": cohort,
        "rounds": rounds, "epochs": 1, "batch-size": 20, "learning-rate": 0.05, "bits": 32, "sparsity": 0.0,
        "uplink-codec": "plain", "downlink-codec": "float32", "evaluate-every": rounds, "workers": 2, "seed": 1,
    }  # fmt: skip
    command = [sys.executable, "-m", "simulations", "--run-dir", str(folder / "run")]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    began, ends, peak = time.monotonic(), [], 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line.rstrip(), flush=True)
            peak = max(peak, _memory(process.pid))
            if re.match(r"round \d+/", line):
                ends.append(time.monotonic() - began)
    if process.returncode or len(ends) != rounds:
        raise SystemExit(
            f"the simulation ended with {process.returncode} after {len(ends)} of {rounds} rounds"
        )
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    first_round = sum(rows[0]["seconds"].values())
    seconds = sum(sum(row["seconds"].values()) for row in rows)
    return {
        "clients": clients,
        "rss_gb": round(peak / 1e9, 3),
        "startup_seconds": round(ends[0] - first_round, 2),
        "clients_s": round(cohort * rounds / seconds, 1),
        "accuracy": rows[-1].get("accuracy"),
        "rounds": rounds,
        "settings": settings,
        "commit": _commit(),
    }


def _memory(pid: int) -> int:
    """The process's peak resident memory so far, in bytes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024
    except (OSError, IndexError):
        return int(psutil.Process(pid).memory_info().rss) if psutil.pid_exists(pid) else 0


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
