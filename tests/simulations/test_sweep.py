"""Scenarios parse; a sweep runs what is left, and its table is mean and spread over seeds."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlite.config import from_mapping
from fedlite.errors import SettingsError
from simulations import scenarios
from simulations.config import Config
from simulations.sweep import Point, points, table, text_table

TINY = """# Tiny.
dataset = "digits"
model = "linear"
clients = 3
rounds = 2
bits = 32
epochs = 1

[sweep]
seed = [0, 1]
"""


def simulate(*argv: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "simulations", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", scenarios.names())
def test_every_scenario_says_what_it_is_and_parses(name: str) -> None:
    settings, sweep = scenarios.read(scenarios.find(name))
    assert scenarios.names()[name]
    assert points(settings, sweep, Path("nowhere"))
    Config(**from_mapping(Config, settings, source=name))


def test_of_a_sweep_the_points_that_work_are_told_and_flags_win(tmp_path: Path) -> None:
    """One that cannot be costs the others nothing; a flag fixes what the file varies."""
    scenario, folder = tmp_path / "tiny.toml", tmp_path / "results"
    scenario.write_text(TINY + "cohort = [2, 5]\n")
    done = simulate(scenario, "--run-dir", folder, "--seed", 7)
    assert done.returncode != 0
    assert "1 simulations failed: cohort=5" in done.stderr
    (line,) = json.loads((folder / "sweep.json").read_text())
    assert (line["settings"], line["seeds"]) == ("cohort=2", 1)
    assert "cohort=2" in done.stdout
    with pytest.raises(SettingsError, match="an app leaves no results"):
        points({"app": "somewhere"}, {"seed": [0, 1]}, tmp_path)


def test_a_sweep_resumes_and_averages(tmp_path: Path) -> None:
    scenario, folder = tmp_path / "tiny.toml", tmp_path / "results"
    scenario.write_text(TINY)
    done = simulate(scenario, "--run-dir", folder)
    assert done.returncode == 0, done.stderr
    found = points(*scenarios.read(scenario), folder)
    accuracies = [point.rows()[-1]["accuracy"] for point in found]
    (line,) = json.loads((folder / "sweep.json").read_text())
    assert line["seeds"] == 2
    assert line["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert line["accuracy_spread"] == pytest.approx(statistics.stdev(accuracies))
    assert table(found) == [line]
    stamps = [(point.folder / "summary.json").stat().st_mtime_ns for point in found]
    again = simulate(scenario, "--run-dir", folder)
    assert "2 simulations, 2 done" in again.stdout
    assert [(point.folder / "summary.json").stat().st_mtime_ns for point in found] == stamps
    assert "<svg" in (folder / "sweep.html").read_text()


def test_a_fleets_time_energy_and_losses_are_columns_where_there_is_one(tmp_path: Path) -> None:
    """Two seeds that end after 100 and 300 s, with 2 Wh each and 3 and 5 clients lost."""
    found = []
    for seed, now, late in ((0, 100.0, 3), (1, 300.0, 5)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        row = {"round": 1, "accuracy": 0.5, "clients": {}}
        fleet = {"now": now, "joules": 7200.0, "late": late}
        (folder / "metrics.jsonl").write_text(json.dumps(row | {"fleet": fleet}) + "\n")
        found.append(Point({}, {"seed": seed}, folder))
    (line,) = table(found)
    assert (line["virtual_seconds"], line["watt_hours"], line["lost"]) == (200.0, 2.0, 4.0)
    heads = text_table([line]).splitlines()[0].split()
    assert heads[-3:] == ["virtual_seconds", "watt_hours", "lost"]
    assert "virtual_seconds" not in text_table([{"settings": "all", "seeds": 1}])


@pytest.mark.parametrize(
    ("text", "says"),
    [("[sweep]\nseed = 3", "list of values"), ("[sweep]\nsead = [1]", "sead"), ("rounds =", "cannot read")],
)
def test_a_bad_scenario_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=says):
        points(*scenarios.read(path), tmp_path)


def test_an_unknown_scenario_lists_those_there_are() -> None:
    done = simulate("mnist-sharks")
    assert done.returncode == 2
    assert "mnist-shards" in done.stderr


def test_ctrl_c_stops_a_sweeps_simulations_each_with_what_it_has(tmp_path: Path) -> None:
    """As a terminal does it: the signal goes to the whole group."""
    scenario, folder = tmp_path / "long.toml", tmp_path / "results"
    scenario.write_text(TINY.replace("rounds = 2", "rounds = 100000"))
    command = [sys.executable, "-m", "simulations", str(scenario), "--run-dir", str(folder)]
    found = points(*scenarios.read(scenario), folder)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as sweep:
        while not all(point.rows() for point in found):
            assert sweep.poll() is None
            time.sleep(0.1)
        os.killpg(sweep.pid, signal.SIGINT)
        said, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 0, said
    assert "0 of 2 simulations" in (folder / "sweep.html").read_text("utf-8")
    for point in found:
        assert (point.folder / "clients.state").exists(), "it was not cut off"
        assert (point.folder / "summary.json").exists()
        assert not point.done
