"""kill -9, again and again: no round is lost, no update counted twice, and the model is the uninterrupted one."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from fedlite.apps.settings import JobSettings
from fedlite.config import from_mapping
from fedlite.ledger.store import Ledger
from fedlite.rounds import from_blobs

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("one", "two")
KILLS = 30
ENDLESS = 100_000
# A job that needs no torch on the server, so that it starts in a second; residuals and masks are in play.
JOB = ("--model", "linear", "--bits", "32", "--epochs", "1", "--prune-round", "3", "--evaluate-every", "0")
SERVER = ("--quorum", "2", "--listen", "127.0.0.1:0", "--join-listen", "127.0.0.1:0", *JOB)


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


@contextmanager
def process(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("ab") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def server(state: Path, rounds: int) -> list[str]:
    return python("server", "--state-dir", state / "server", "--rounds", rounds, *SERVER)


def device(state: Path, index: int) -> list[str]:
    data = ("--data", f"digits:{index}/{len(NAMES) * 4}", "--threads", "1")
    return python("client", "--state-dir", state / NAMES[index], *data)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server that has made its first model and enrolled two devices, all stopped."""
    state = tmp_path_factory.mktemp("enrolled")
    with process(server(state, ENDLESS), state / "server.log") as running:
        while "waits for clients" not in (state / "server.log").read_text():
            assert running.poll() is None, (state / "server.log").read_text()
            time.sleep(0.1)
        for name in NAMES:
            invite = python("server", "invite", name, "--state-dir", state / "server")
            code = subprocess.run(invite, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            subprocess.run(python("client", "join", code, "--state-dir", state / name), cwd=ROOT, check=True)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
    return state


def finish(state: Path, rounds: int) -> None:
    """Run undisturbed until `rounds` rounds are committed."""
    log = state / "server.log"
    with ExitStack() as stack:
        for index in range(len(NAMES)):
            stack.enter_context(process(device(state, index), state / f"{index}.log"))
        running = stack.enter_context(process(server(state, rounds), log))
        assert running.wait(120) == 0, log.read_text()[-2000:]


def torment(state: Path) -> set[int]:
    """Kill the server KILLS times, and a device now and then; returns the rounds that were committed at kills."""
    rng, log, rounds = random.Random(7), state / "server.log", set()
    with ExitStack() as stack:
        devices = [
            stack.enter_context(process(device(state, i), state / f"{i}.log")) for i in range(len(NAMES))
        ]
        for kill in range(KILLS):
            with process(server(state, ENDLESS), log) as running:
                if kill % 3:
                    await_progress(state, max(rounds, default=0))
                time.sleep(rng.uniform(0.0, 0.3 if kill % 3 else 1.5))
                assert running.poll() is None, log.read_text()[-2000:]
                running.kill()
            rounds.add(done(state))
            if kill % 12 == 6:
                devices[0].kill()
                devices[0] = stack.enter_context(process(device(state, 0), state / "0.log"))
    return rounds


def await_progress(state: Path, rounds: int) -> None:
    """Wait until a round more is committed."""
    for _ in range(1200):
        if done(state) > rounds:
            return
        time.sleep(0.05)
    raise AssertionError((state / "server.log").read_text()[-2000:])


def done(state: Path) -> int:
    """Rounds committed."""
    with open_ledger(state) as ledger:
        latest = ledger.latest()
        assert latest is not None
        return latest.round_num


def open_ledger(state: Path) -> Ledger:
    config = json.loads((state / "server" / "results" / "config.json").read_text())["settings"]
    known = {item.name for item in fields(JobSettings)}
    given = {name: value for name, value in config.items() if name in known and value is not None}
    settings = JobSettings(**from_mapping(JobSettings, given, source="config.json"))
    return Ledger.open(state / "server" / "ledger.db", settings.identity())


@pytest.mark.timeout(600)
def test_thirty_kills_change_nothing(enrolled: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    shutil.copytree(enrolled, killed)
    shutil.copytree(enrolled, whole)
    seen = torment(killed)
    assert len(seen) >= KILLS // 2, f"the kills should fall into different rounds, not {sorted(seen)}"
    rounds = max(seen) + 3
    finish(killed, rounds)
    finish(whole, rounds)
    with open_ledger(killed) as ledger, open_ledger(whole) as reference:
        assert [row["round"] for row in ledger.history() if "round" in row] == list(range(1, rounds + 1))
        for number in range(1, rounds + 1):
            assert len({entry.sender for entry in ledger.counted_in(number)}) == 2
            assert len(ledger.counted_in(number)) == 2
        got, want = ledger.latest(), reference.latest()
    assert got is not None
    assert want is not None
    assert from_blobs(got.state).held.hash == from_blobs(want.state).held.hash
