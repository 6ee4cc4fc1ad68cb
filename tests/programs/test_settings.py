"""Settings that cannot work: refused before anything is written, with what would."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import client.__main__
import server.__main__
import simulations.__main__
from tests.programs.programs import BAD_SETTINGS, Done, assert_refused, run

# Each is refused by the parser, in a process that loads nothing else.
PARSED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "unknown flag": ("server", ("--bit", "8"), "unrecognized arguments: --bit 8"),
    "stray word": ("server", ("digits",), "unrecognized arguments: digits"),
    "unknown command": ("server", ("invte", "pi"), "unrecognized arguments: invte pi"),
    "9 bits": ("simulations", ("--bits", "9"), "invalid choice: 9 (choose from 2, 3, 4, 5, 6, 7, 8, 32)"),
    "a word for a number": ("server", ("--rounds", "many"), "invalid int value: 'many'"),
    "no value": ("server", ("--rounds",), "expected one argument"),
    "no rounds": ("server", ("--rounds", "0"), "--rounds is 0, at least 1 wanted"),
    "cohort below quorum": ("server", ("--cohort", "1"), "--cohort is 1, below --quorum 2"),
    "negative cohort": ("server", ("--cohort", "-3"), "--cohort is -3, at least 0 wanted"),
    "no quorum": ("server", ("--quorum", "0"), "--quorum is 0"),
    "endless over-selection": ("server", ("--over-selection", "inf"), "--over-selection is inf"),
    "no deadline": ("server", ("--deadline-seconds", "nan"), "--deadline-seconds is nan, above 0 wanted"),
    "all pruned": ("server", ("--sparsity", "1"), "--sparsity is 1.0, 0 to below 1 wanted"),
    "backwards": ("simulations", ("--learning-rate", "-0.1"), "learning_rate is -0.1; it must be > 0"),
    "no epochs": ("server", ("--epochs", "0"), "epochs is 0"),
    "half a batch": ("server", ("--batch-size", "-1"), "batch_size is -1"),
    "momentum for adam": ("server", ("--optimizer", "adam", "--momentum", "0.9"), "which adam does not use"),
    "never tested": ("server", ("--evaluate-every", "-1"), "--evaluate-every is -1"),
    "minus one workers": ("simulations", ("--workers", "-1"), "--workers is -1, at least 0 wanted"),
    "no size": ("server", ("--uplink-budget", "50kb"), "'50kb' is not a size (write it as 50000, 50kB"),
    "no rate": ("client", ("--data", "digits", "--link", "100"), "'100' is not a rate (write it as 100kbit/s"),
    "no time": ("server", ("--link", "1kB/s", "--round-time", "30"), "'30' is not a time (write it as 30s"),
    "a time and no link": ("server", ("--round-time", "30s"), "--round-time is 30s, but no link is known"),
    "too little time": ("client", ("--data", "digits", "--link", "1kbit/s", "--round-time", "1s"), "no report"),
    "two links": ("simulations", ("--link", "1Mbit/s", "--devices", "pi4"), "which have links of their own"),
    "nothing to learn from": ("client", (), "there is nothing to learn from"),
    "two sources": ("client", ("--data", "digits", "--stdin"), "give one of them"),
    "watch without a form": ("client", ("--watch", "."), "give --input-shape and --num-classes"),
    "no reservoir": ("client", ("--data", "digits", "--reservoir", "0"), "--reservoir is 0"),
    "minus one threads": ("client", ("--data", "digits", "--threads", "-1"), "--threads is -1"),
    "no TOML file": ("server", ("--config", "/nonexistent.toml"), "cannot read /nonexistent.toml"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARSED)
def test_what_the_parser_refuses(name: str) -> None:
    module, arguments, words = PARSED[name]
    assert_refused(run(module, *arguments), BAD_SETTINGS, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rouns = 3", "unknown key 'rouns'"),
        ("rounds = '3'", "'rounds' in"),
        ("rounds = 3.0", "a float; int wanted"),
        ("rounds = true", "a bool; int wanted"),
        ("bits = 8.0", "it can be 2, 3, 4, 5, 6, 7, 8, 32"),
        ("bits = 9", "it can be 2, 3, 4, 5, 6, 7, 8, 32"),
        ("learning-rate = '0.1'", "a str; float wanted"),
        ("data-dir = 3", "a int; Path wanted"),
        ("rounds = ", "is not TOML"),
        ("rounds = 3\nrounds = 4", "is not TOML"),
        ("[server]\nrounds = 3", "unknown key 'server'"),
        ("cohort = 1", "--cohort is 1, below --quorum 2"),
    ],
)
def test_what_a_toml_file_may_not_hold(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    line = assert_refused(run("server", "--config", path, "--state-dir", tmp_path / "s"), BAD_SETTINGS, words)
    assert words.startswith("--") or str(path) in line
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Data of one's own, of classes 0 to 4: eight samples of 1x8x8 each."""
    path = tmp_path / "own.npz"
    np.savez(path, x=np.zeros((40, 1, 8, 8), np.float32), y=np.arange(40) % 5)
    return path


JOBS: dict[str, tuple[tuple[str, ...], str]] = {
    "data set": (("--dataset", "digit"), "'digit' is neither a data set nor a path; give one of digits, mnist"),
    "data folder": (("--dataset", "mnist", "--data-dir", "/nonexistent"), "/nonexistent is not a folder"),
    "part": (("--dataset", "digits:3/3"), "there is no part 3 of 3; possible are 0/3 to 2/3"),
    "model": (("--model", "resnet"), "unknown model 'resnet'; there are linear, small_cnn"),
    "a model for other data": (("--model", "char_lstm"), "the model takes no examples of shape (1, 8, 8)"),
    "strategy": (("--strategy", "fedsgd"), "unknown strategy 'fedsgd'; there are fedavg, fedprox, fedadam"),
    "strategy's option": (("--strategy", "fedprox:nu=1"), "fedprox has no option ['nu']"),
    "strategy's value": (("--strategy", "fedprox:mu=-1"), "mu is -1.0, at least 0 wanted"),
    "strategy's word": (("--strategy", "fedprox:mu=much"), "is not key=number"),
    "Flower's strategy": (("--strategy", "flwr:FedBest"), "there is no flwr:FedBest here; there are FedAvg"),
    "Flower's option": (("--strategy", "flwr:FedAvg:x=1"), "flwr:FedAvg takes no ['x']"),
    "codec": (("--uplink-codec", "int7"), "no codec 'int7'; there are int8"),
    "codec down": (("--downlink-codec", "gzip"), "no codec 'gzip'; there are int8"),
    "no shape": (("--dataset", "", "--model", "2nn"), "give --dataset, or --input-shape and --num-classes"),
    "shape": (("--dataset", "", "--input-shape", "8by8", "--num-classes", "3"), "write it as 1x28x28"),
}  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_cannot_work(program: Callable[..., Done], tmp_path: Path, name: str) -> None:
    """The server has made its keys, for those do not depend on the job; the run has not begun."""
    arguments, words = JOBS[name]
    state = tmp_path / "state"
    base = ("--state-dir", state, "--listen", "127.0.0.1:0", "--join-listen", "127.0.0.1:0")
    assert_refused(program(server.__main__.body, *base, *arguments), BAD_SETTINGS, words)
    assert not (state / "ledger.db").exists()
    assert not (state / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--partition", "even"), "there is no partition scheme 'even'"),
        (("--partition", "dirichlet:0"), "dirichlet"),
        (("--partition", "natural"), "natural"),
        (("--clients", "0"), "0 clients asked"),
        (("--clients", "100000"), "1438 samples cannot serve 100000 clients"),
        (("--strategy", "fedsgd"), "unknown strategy 'fedsgd'"),
        (("--model", "resnet"), "unknown model 'resnet'"),
    ],
)
def test_a_simulation_that_cannot_work(
    program: Callable[..., Done], tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    folder = tmp_path / "run"
    done = program(simulations.__main__.body, "--run-dir", folder, *arguments)
    assert_refused(done, BAD_SETTINGS, words)
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "digit"), "'digit' is neither a data set nor a path"),
        (("--data", "digits:3/3"), "there is no part 3 of 3"),
        (("--data", "digits:a/b"), "unknown part 'a/b'"),
        (("--data", "mnist", "--data-dir", "/nonexistent"), "/nonexistent is not a folder"),
        (("--data", "digits:0/3", "--partition", "even"), "there is no partition scheme 'even'"),
        (("--data", "OWN:5/40", "--partition", "shards:1"), "30 samples cannot serve 40 clients"),
        (("--data", "OWN", "--device", "tpu"), "device 'tpu' is not available; this machine has cpu"),
        (("--data", "OWN", "--server", "nowhere"), "address is 'nowhere'; host:port expected"),
        (("--data", "OWN", "--server", "host:99999"), "address is 'host:99999'"),
        (("--watch", "/nonexistent", "--input-shape", "1x8x8", "--num-classes", "5"), "no folder /nonexistent"),
        (("--stdin", "--input-shape", "1x8x0", "--num-classes", "5"), "'1x8x0' is no shape"),
    ],
)  # fmt: skip
def test_a_device_that_cannot_work(
    program: Callable[..., Done], home: Path, own: Path, arguments: tuple[str, ...], words: str
) -> None:
    given = [each.replace("OWN", str(own)) for each in arguments]
    assert_refused(program(client.__main__.body, "--state-dir", home / "one", *given), BAD_SETTINGS, words)


def test_bad_settings_do_not_spoil_a_state_directory(program: Callable[..., Done], tmp_path: Path) -> None:
    """After a mistake, the right settings work in the same folder."""
    folder = tmp_path / "run"
    job = ("--run-dir", folder, "--clients", "3", "--rounds", "1", "--bits", "32", "--evaluate-every", "0")
    for wrong in (("--model", "resnet"), ("--strategy", "fedsgd"), ("--uplink-codec", "int7")):
        assert program(simulations.__main__.body, *job, *wrong).code == BAD_SETTINGS
    done = program(simulations.__main__.body, *job, "--model", "linear")
    assert done.code == 0, done.err
    other = program(simulations.__main__.body, *job, "--model", "linear", "--seed", "1")
    assert_refused(other, BAD_SETTINGS, "belongs to another run: seed: 0 there, 1 now")
    (folder / "ledger.db").unlink()
    lost = program(simulations.__main__.body, *job, "--model", "linear")
    assert_refused(lost, BAD_SETTINGS, "ledger.db is missing", "move the results away")
