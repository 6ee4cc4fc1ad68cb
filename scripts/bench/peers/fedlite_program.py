"""fedlite as people run it: whole rounds of `python -m simulations`, from the first client trained to the commit.

`plain` sends float32 both ways, not compressed; `pipeline` is pruned to half, int8-aware and coded as int8, and
`pipeline:sparse` has that codec for updates and `exact` for the way down. The first rounds (before the pruning, and
while every client is met for the first time) do not count.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from workload import read, report

ROOT = Path(__file__).resolve().parents[3]
FIRST = 15  # rounds that do not count: most clients' state is made in them
PLAIN = "--bits 32 --sparsity 0 --uplink-codec plain --downlink-codec plain"
PIPELINE = "--bits 8 --sparsity 0.5 --prune-round 1 --uplink-codec {} --downlink-codec {}"


def main() -> None:
    work = read()
    rounds = FIRST + work.rounds
    kind, _, codec = work.variant.partition(":")
    ways = (codec, "exact") if codec and codec != "int8" else ("int8", "int8")
    way = PIPELINE.format(*ways) if kind == "pipeline" else PLAIN
    with tempfile.TemporaryDirectory() as folder:
        flags = (
            f"--dataset fashion_mnist --partition iid --model {work.model} --clients {work.clients} "
            f"--cohort {work.cohort} --epochs {work.epochs} --batch-size {work.batch_size} "
            f"--learning-rate {work.learning_rate} --workers {work.threads} --seed {work.seed} "
            f"--rounds {rounds} --evaluate-every {rounds} {way}"
        )
        command = [sys.executable, "-m", "simulations", *flags.split(), "--run-dir", folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"Error: {done.stderr.strip().splitlines()[-1]}")
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    seconds = [sum(row["seconds"].values()) - row["seconds"]["evaluate"] for row in rows[FIRST:]]
    report(work, seconds, rows[-1].get("accuracy"))


if __name__ == "__main__":
    main()
