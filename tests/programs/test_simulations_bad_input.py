"""Simulations that cannot work, or that fail in part: refused with the remedy, or named and gone on without."""

import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import simulations.__main__
from tests.programs.programs import BAD_SETTINGS, FAILED, Done, assert_refused, run, started
from tests.simulations.test_foreign import CLIENT, SERVER, make_app

Program = Callable[..., Done]
SMALL = ("--model", "linear", "--clients", "6", "--rounds", "1", "--epochs", "1", "--evaluate-every", "0")


def nobody() -> Iterator[str]:
    """An address where nothing answers: a port that is taken, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


away = pytest.fixture(nobody)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cohort", "7"), ("--cohort is 7, but there are 6 clients", "lower --cohort")),
        (("--quorum", "7"), ("--quorum is 7, but there are 6 clients", "lower --quorum")),
        (("--clients", "2000"), ("1438 samples cannot serve 2000 clients", "use fewer clients")),
        (("--clients", "0"), ("'iid' needs a number of at least 1", "give another --partition or --clients")),
        (("--partition", "shards:0"), ("needs a positive whole number", "give another --partition")),
        (
            ("--dataset", "synthetic:1,1", "--partition", "shards:2"),
            ("--partition is shards:2, but each client of synthetic:1,1 has data of its own", "leave it out"),
        ),
        (("mnist-shards",), ("unrecognized arguments: mnist-shards", "comes before its options: python -m")),
        (("--devices", "toaster"), ("no device profile 'toaster'; there are pi_zero_2w, pi3",)),
        (("--devices", "pi4:x"), ("pi4:x",)),
        (("--devices", "pi4", "--availability", "sometimes"), ("no trace 'sometimes'; there are always",)),
        (("--availability", "diurnal"), ("needs devices", "name some, as in --devices pi4:0.7")),
        (("--memory-gb", "0"), ("--memory-gb is 0.0, above 0 wanted",)),
        (("--memory-gb", "nan"), ("--memory-gb is nan, above 0 wanted",)),
        (("--engine", "gpu"), ("invalid choice: 'gpu' (choose from 'auto', 'compiled'",)),
        (("--engine", "ray", "--address", "AWAY"), ("no Ray cluster answers at --address 127.0.0.1", "ray start")),
        (("--engine", "ray", "--address", "host:port"), ("no Ray cluster answers at --address host:port",)),
    ],
)  # fmt: skip
def test_refused_before_anything_is_written(
    program: Program, tmp_path: Path, away: str, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    given = [each.replace("AWAY", away) for each in arguments]
    done = program(simulations.__main__.body, *SMALL, "--run-dir", folder, *given)
    assert_refused(done, BAD_SETTINGS, *words)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--memory-gb", "1e-5"), ("training one client takes about 1 MiB", "allow more memory")),
        (
            ("--engine", "compiled", "--optimizer", "adam"),
            ("the compiled engine cannot do this work: the optimizer is adam", "take another engine"),
        ),
    ],
)
def test_refused_with_the_first_round_the_folder_still_good(
    program: Program, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    done = program(simulations.__main__.body, *SMALL, "--run-dir", folder, *arguments)
    assert_refused(done, BAD_SETTINGS, *words)
    done = program(simulations.__main__.body, *SMALL, "--run-dir", folder)
    assert done.code == 0, done.err
    assert (folder / "model.safetensors").exists()


def test_ray_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is found by an import: first on the path lies a package that cannot be imported."""
    (tmp_path / "path" / "ray").mkdir(parents=True)
    (tmp_path / "path" / "ray" / "__init__.py").write_text("raise ModuleNotFoundError('No module named ray')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    done = run("simulations", *SMALL, "--engine", "ray", "--run-dir", tmp_path / "run")
    assert_refused(done, BAD_SETTINGS, "Ray is not installed", "pip install 'fedlite[sim]'")


def test_clients_that_diverge_are_dropped_by_name(program: Program, tmp_path: Path) -> None:
    """A learning rate of 1e30 leaves nobody: the round names each, and the quorum is missed."""
    done = program(
        simulations.__main__.body, *SMALL, "--bits", "32", "--learning-rate", "1e30", "--run-dir", tmp_path / "run"
    )  # fmt: skip
    assert_refused(
        done, FAILED, "0 of 6 clients answered, 2 wanted. 2, 3, 4, 5, 6, 7: ", "training diverged (lower"
    )


def damaged(path: Path, old: str, new: str) -> Path:
    """An app whose pyproject.toml says something else."""
    file = make_app(path) / "pyproject.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[project]", "[project", "has no [tool.flwr.app.components] with serverapp and clientapp"),
        ('"stranger.client_app:app"', "7", "cannot load the clientapp '7'"),
        ("stranger.client_app:app", ".client_app:app", "cannot load the clientapp '.client_app:app'"),
        ("stranger.client_app:app", "stranger.client_app", "cannot load the clientapp 'stranger.client_app'"),
        ("[tool.flwr.app.config]", "[tool.flwr.app.more]", "[tool.flwr.app.config] of"),
    ],
)
def test_an_app_whose_pyproject_is_broken(
    program: Program, tmp_path: Path, old: str, new: str, words: str
) -> None:
    app = damaged(tmp_path / "app", old, new)
    if "more" in new:
        damaged_again = (app / "pyproject.toml").read_text()
        cut = damaged_again[: damaged_again.index("[tool.flwr.app.more]")]
        (app / "pyproject.toml").write_text(cut.replace("[tool.flwr.app]", "[tool.flwr.app]\nconfig = 3"))
    assert_refused(program(simulations.__main__.body, "--app", app, "--clients", "2"), BAD_SETTINGS, words)


def test_what_an_app_does_not_know_is_refused(program: Program, tmp_path: Path) -> None:
    done = program(
        simulations.__main__.body, "--app", make_app(tmp_path), "--devices", "pi4", "--engine", "torch"
    )
    assert_refused(done, BAD_SETTINGS, "--app takes no --devices, --engine", "app, clients, seed, workers")


def test_an_apps_client_that_raises_is_named_and_the_round_goes_on(tmp_path: Path) -> None:
    app = make_app(tmp_path / "app")
    (app / "stranger" / "server_app.py").write_text(
        SERVER.replace("fraction_train=0.5", "fraction_train=1.0")
    )
    done = run("simulations", "--app", app, "--clients", "4")
    assert done.code == 0, done.err
    everything = done.out + done.err
    assert everything.count("Received 3 results and 1 failures") == 3
    assert everything.count("error in reply from node 5: RuntimeError: the third has no power") == 3
    assert "Traceback" not in everything


def test_ctrl_c_ends_an_app(tmp_path: Path) -> None:
    app = make_app(tmp_path / "app")
    slow = CLIENT.replace("    rank =", "    import time; time.sleep(0.05)\n    rank =")
    (app / "stranger" / "client_app.py").write_text(slow)
    text = (app / "pyproject.toml").read_text()
    (app / "pyproject.toml").write_text(text.replace("num-rounds = 3", "num-rounds = 10000"))
    for workers in ("1", "2"):
        with started(tmp_path / "log", "simulations", "--app", app, "--workers", workers) as simulation:
            simulation.wait_for("[ROUND 2/10000]")
            done = simulation.end(signal.SIGINT)
        assert done.code == 0, done.out
        assert done.out.splitlines()[-1].startswith("stopped: ")
        assert "Traceback" not in done.out


def test_ctrl_c_leaves_what_can_be_used_and_gone_on_with_as_if_uninterrupted(tmp_path: Path) -> None:
    """Coded updates, a pruning round and a virtual clock: what clients owe and what time it is are kept."""
    arguments = (
        "simulations", "--model", "linear", "--clients", "20", "--cohort", "8", "--over-selection", "1.3",
        "--epochs", "40", "--prune-round", "2", "--evaluate-every", "0", "--rounds", "10", "--workers", "1",
        "--devices", "pi4:0.5,pi_zero_2w:0.5", "--availability", "dropout:0.1",
    )  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with started(tmp_path / "log", *arguments, "--run-dir", parts) as simulation:
        simulation.wait_for("round 3/10")
        done = simulation.end(signal.SIGINT)
    assert done.code == 0
    assert "Traceback" not in done.out
    assert f"results: {parts}/report.html" in done.out
    assert 3 <= len(rows(parts)) < 10
    for name in ("model.safetensors", "summary.json", "clients.state", "config.json"):
        assert (parts / name).stat().st_size > 0
    assert "<svg" in (parts / "report.html").read_text("utf-8")
    for folder in (parts, whole):
        done = run(*arguments, "--run-dir", folder)
        assert done.code == 0, done.err
        assert "forgotten" not in done.out
    assert rows(parts) == rows(whole)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def rows(folder: Path) -> list[dict[str, object]]:
    """The rounds, without what took real time."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [row | {"seconds": None} for row in found]
