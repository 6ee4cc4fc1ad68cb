"""The server's state directory, its ports and its disk: what is wrong is said, and nothing is lost."""

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from fedlite.apps.settings import JobSettings
from fedlite.ledger.store import Ledger
from tests.ledger.test_disk import may_mount
from tests.programs.devices import honest, on_the_link
from tests.programs.programs import (
    BAD_SETTINGS,
    FAILED,
    JOB,
    LOCAL,
    assert_refused,
    run,
    serving,
    started,
)


def server(state: Path, *arguments: object) -> tuple[object, ...]:
    return ("server", "--state-dir", state, *LOCAL, *JOB, *arguments)


def test_the_directory_of_another_run(home: Path) -> None:
    state = home / "server"
    before = (state / "ledger.db").read_bytes()
    for flags, words in (
        (("--seed", "1"), "seed: 0 there, 1 now"),
        (("--model", "2nn"), "model: 'linear' there, '2nn' now"),
        (("--strategy", "fedadam"), "strategy: 'fedavg' there, 'fedadam' now"),
    ):
        done = run(*server(state, *flags))
        assert_refused(done, BAD_SETTINGS, "belongs to another run", words, "with that run's settings")
    assert (state / "ledger.db").read_bytes() == before


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "identity.key", "fleet.db", "ledger.db"])
def test_a_file_that_is_missing_or_damaged(home: Path, tmp_path: Path, name: str) -> None:
    """A server that made it anew would lock its devices out, or forget what they learned."""
    state = home / "server"
    damaged = shutil.copytree(state, tmp_path / "damaged")
    content = (state / name).read_bytes()
    (damaged / name).write_bytes(content[:100] + bytes(len(content) - 100))
    assert_refused(run(*server(damaged)), BAD_SETTINGS, str(damaged), "backup")
    if name == "ledger.db":
        (state / "results" / "metrics.jsonl").write_text('{"round":1}\n')
    (state / name).unlink()
    there = {path: path.read_bytes() for path in state.iterdir() if path.is_file()}
    assert_refused(run(*server(state)), BAD_SETTINGS, name, "is missing", "backup")
    if name != "ledger.db":
        assert_refused(run("server", "invite", "pi", "--state-dir", state), BAD_SETTINGS, name, "is missing")
    assert {path: path.read_bytes() for path in state.iterdir() if path.is_file()} == there


def test_ports_and_directories_in_use(home: Path, tmp_path: Path) -> None:
    with serving(home / "server") as first:
        addresses = json.loads((home / "server" / "address.json").read_text())
        assert_refused(run(*server(home / "server")), BAD_SETTINGS, "in use by another program")
        other = shutil.copytree(home / "server", tmp_path / "other")
        (other / "address.json").unlink()  # it would pick the first server's ports again
        for flag, which in (("--listen", "link"), ("--join-listen", "join")):
            done = run(*server(other, flag, addresses[which]))
            assert_refused(done, BAD_SETTINGS, "cannot listen", addresses[which], "in use")
        for address in ("nonsense", "127.0.0.1:99999", "127.0.0.1", "192.0.2.1:0"):
            assert_refused(run(*server(other, "--listen", address)), BAD_SETTINGS, address)
        assert first.end(signal.SIGTERM).code == 0
    with serving(home / "server") as again:
        assert json.loads((home / "server" / "address.json").read_text()) == addresses
        assert again.end(signal.SIGTERM).code == 0


def test_a_path_where_no_directory_can_be(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "state"):
        assert_refused(run(*server(path)), FAILED, f"cannot make {path}", "give a folder")
    state = ("--state-dir", home / "server")
    done = run("server", *state, *LOCAL, *JOB, "--run-dir", tmp_path / "file")
    assert_refused(done, FAILED, f"cannot make {tmp_path / 'file'}")


@dataclass(frozen=True)
class SmallDisk:
    """The server's state where there is little room; `command` runs a server there, `more` makes room."""

    state: Path
    prefix: tuple[str, ...]
    more: Callable[[], None]


@pytest.fixture
def small_disk(home: Path) -> Iterator[SmallDisk]:
    """A file system of 2 MB with 250 kB free; where none can be mounted, no file may grow beyond 250 kB."""
    if not may_mount():
        yield SmallDisk(home / "server", ("prlimit", "--fsize=250000"), lambda: None)
        return
    place = home / "disk"
    place.mkdir()
    mount(place, "-t", "tmpfs", "-o", "size=2m", "tmpfs")
    try:
        state = shutil.copytree(home / "server", place / "server")
        free = shutil.disk_usage(place).free
        (place / "ballast").write_bytes(bytes(free - 250_000))
        yield SmallDisk(state, (), lambda: mount(place, "-o", "remount,size=64m"))
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def mount(place: Path, *arguments: str) -> None:
    subprocess.run(["mount", *arguments, str(place)], check=True, capture_output=True)


def test_a_full_disk_stops_the_server_and_room_lets_it_finish(home: Path, small_disk: SmallDisk) -> None:
    """It stops with the cause after some rounds; with more room the same command goes on from the last of them."""
    state, log = small_disk.state, home / "server.log"
    with on_the_link(home, honest(home, "one", 0), honest(home, "two", 1)):
        with started(log, *server(state, "--rounds", 1000), prefix=small_disk.prefix) as full:
            done = full.end()
        assert_refused(done, FAILED, "free some space and start again with the same --state-dir")
        reached = committed(state)
        assert 0 < reached < 1000
        small_disk.more()
        with started(log, *server(state, "--rounds", reached + 2)) as resumed:
            assert resumed.end().code == 0, resumed.text
            assert f"resumed after round {reached}" in resumed.text
    assert committed(state) == reached + 2
    rows = [json.loads(line) for line in (state / "results" / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == list(range(1, reached + 3))


def committed(state: Path) -> int:
    """The rounds in the server's ledger."""
    config = json.loads((state / "results" / "config.json").read_text())["settings"]
    names = [item.name for item in fields(JobSettings)]
    settings = JobSettings(**{name: config[name] for name in names if name not in ("data_dir", "run_dir")})
    with Ledger.open(state / "ledger.db", settings.identity()) as ledger:
        latest = ledger.latest()
    assert latest is not None
    return latest.round_num
