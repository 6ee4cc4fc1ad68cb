"""Scenarios parse; a sweep runs what is left, and its table is mean and spread over seeds."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from fedlite.config import from_mapping
from fedlite.errors import SettingsError
from simulations import scenarios
from simulations.config import Config
from simulations.sweep import points, table

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
