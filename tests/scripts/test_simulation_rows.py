"""scripts/bench/peers/rows.py: what a row says after several runs of the same program, also where one of them fails."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PEERS = Path(__file__).resolve().parents[2] / "scripts/bench/peers"
# Each program's runs, one after another: seconds of the rounds of 100 clients, or how it ends.
RUNS: dict[str, list[list[float] | str]] = {
    "ours": [[0.1, 0.3], [0.1], [0.1, 0.1]],
    "peer": [[0.5, 0.5], "out of memory", [0.25]],
    "slow": [[2.0]],
    "none": ["no such module"],
}
PROGRAM = """
import json, pathlib, sys
runs, done = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])
done.write_text(done.read_text() + "x" if done.exists() else "x")
seconds = runs[len(done.read_text()) - 1]
if isinstance(seconds, str):
    sys.exit(f"RuntimeError: {seconds}")
rate = 100 / sorted(seconds)[len(seconds) // 2]
print(json.dumps({"clients_s": rate, "rounds": len(seconds), "seconds": seconds, "accuracy": 0.5}))
"""
CONTEST = """
import json, sys
sys.path.insert(0, sys.argv[1])
from rows import Bench
from workload import Workload
programs, bench = json.loads(sys.argv[2]), Bench(0, False, [], [], {}, {})
work = Workload("mlp", "", 1000, 100, 60, 1, 20, 0.05, 2, 0, 1, 1.0, 0)
for row, program in programs.items():
    bench.run(row, program, work)
bench.contest("ours", "none", *bench.near_best("peer", "slow", "none"))
print(json.dumps([bench.rows, bench.rate("ours"), bench.rate("peer", "slow")]))
"""


def test_all_rounds_count_and_a_run_that_failed_is_named(tmp_path: Path) -> None:
    programs = {
        row: [sys.executable, "-c", PROGRAM, json.dumps(runs), str(tmp_path / row)]
        for row, runs in RUNS.items()
    }
    command = [sys.executable, "-c", CONTEST, str(PEERS), json.dumps(programs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows: dict[str, dict[str, Any]]
    rows, ours, best = json.loads(done.stdout.splitlines()[-1])
    assert rows["ours"]["seconds"] == [0.1, 0.3, 0.1, 0.1, 0.1]
    assert ours == 1000
    assert rows["ours"]["sittings"] == [100 / 0.3, 1000, 1000]
    assert rows["peer"]["seconds"] == [0.5, 0.5, 0.25]
    assert best == 200
    assert "out of memory" in rows["peer"]["failed"][0]
    assert "one run failed" in done.stderr
    assert rows["slow"]["rounds"] == 1  # too far behind to be the fastest
    assert "no such module" in rows["none"]["error"]
