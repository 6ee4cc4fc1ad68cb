"""A full or failing disk: a typed error with the cause, nothing committed lost, and work goes on when there is room."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlite.errors import StorageError
from fedlite.ledger.fleet import Fleet
from fedlite.ledger.shelf import Shelf
from fedlite.ledger.store import Counted, Ledger

IDENTITY = {"run": "disk"}
CAP_SYS_ADMIN = 21


def may_mount() -> bool:
    """Whether a file system of its own can be mounted here (Linux, with the right to)."""
    status = Path("/proc/self/status")
    if shutil.which("mount") is None or not status.exists():
        return False
    line = next(line for line in status.read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1)


@pytest.fixture(params=["small file system", "page limit"] if may_mount() else ["page limit"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that is full after about 1.5 MB: a tmpfs of that size, or a limit set in SQLite by `fill`."""
    if request.param == "page limit":
        yield tmp_path
        return
    place = tmp_path / "mounted"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(place)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def limited(opened: Ledger | Shelf | Fleet, folder: Path, pages: int = 300) -> None:
    """Where the folder is not small by itself, give SQLite a limit (300 pages of 4 kB); its error is the same."""
    if folder.name != "mounted":
        opened._database.rows(f"PRAGMA max_page_count = {pages}")


def commit(ledger: Ledger, round_num: int, size: int, keep_steps: int = 100) -> None:
    value = os.urandom(size)
    counted = [Counted(round_num, "pi", round_num, value[:32])]
    metrics = {"round": round_num}
    ledger.commit(
        round_num, state={"m": value}, step=value, counted=counted, metrics=metrics, keep_steps=keep_steps
    )


def fill(ledger: Ledger) -> tuple[int, StorageError]:
    """Commit rounds of 2 · 60 kB until the disk is full: the last good round, and the error."""
    for round_num in range(100):
        before = ledger.latest()
        try:
            commit(ledger, round_num, 60_000)
        except StorageError as error:
            assert ledger.latest() == before
            return round_num - 1, error
    raise AssertionError("the disk never got full")


def test_a_full_disk_loses_no_round_and_names_the_cause(folder: Path) -> None:
    path = folder / "ledger.db"
    with Ledger.open(path, IDENTITY) as ledger:
        limited(ledger, folder)
        last, error = fill(ledger)
        assert last >= 3
        assert "database or disk is full" in str(error)
        assert "free some space" in str(error)
        assert str(path) in str(error)
        assert "full" in str(error.__cause__)  # not the failing rollback after it
        with pytest.raises(StorageError, match="full"):
            commit(ledger, last + 1, 60_000)
        assert ledger.latest().round_num == last
        assert [len(ledger.counted_in(n)) for n in range(last + 2)] == [1] * (last + 1) + [0]


def test_it_opens_and_reads_while_the_disk_is_full(folder: Path) -> None:
    path = folder / "ledger.db"
    with Ledger.open(path, IDENTITY) as ledger:
        limited(ledger, folder)
        last, _ = fill(ledger)
        latest, run_id = ledger.latest(), ledger.run_id
    with Ledger.open(path, IDENTITY) as ledger:
        assert ledger.run_id == run_id
        assert ledger.latest() == latest
        assert [row["round"] for row in ledger.history()] == list(range(last + 1))


def test_work_goes_on_in_the_same_process_once_there_is_room(folder: Path) -> None:
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(400_000))
    with Ledger.open(folder / "ledger.db", IDENTITY) as ledger:
        limited(ledger, folder)
        last, _ = fill(ledger)
        ballast.unlink()
        limited(ledger, folder, pages=10_000)
        commit(ledger, last + 1, 60_000)
        assert ledger.latest().round_num == last + 1


def test_pruning_steps_makes_room(folder: Path) -> None:
    """With two steps kept, rounds go on for ever where without pruning they stopped after a dozen."""
    with Ledger.open(folder / "ledger.db", IDENTITY) as ledger:
        limited(ledger, folder)
        for round_num in range(40):
            commit(ledger, round_num, 40_000, keep_steps=2)
        assert len(ledger.steps(37, 39)) == 2


def test_a_full_disk_keeps_the_shelf_as_it_was(folder: Path) -> None:
    with Shelf(folder / "shelf.db") as shelf:
        limited(shelf, folder)
        shelf.put({"a": b"old", "b": b"old"})
        with pytest.raises(StorageError, match="full"):
            shelf.put({"a": b"new", "b": os.urandom(4_000_000)})
        assert (shelf.get("a"), shelf.get("b")) == (b"old", b"old")
        shelf.put({"a": b"new"})
        assert shelf.get("a") == b"new"


def test_a_full_disk_keeps_the_fleet_as_it_was(folder: Path) -> None:
    with Fleet(folder / "fleet.db") as fleet:
        limited(fleet, folder)
        fleet.invite("pi", b"hash", 1.0)
        version = fleet.version()
        with pytest.raises(StorageError, match="full"):
            fleet.invite("x" * 4_000_000, b"other", 1.0)
        assert fleet.version() == version


FILE_LIMIT = """
import resource, sys
from pathlib import Path
from fedlite.errors import StorageError
from fedlite.ledger.shelf import Shelf
with Shelf(Path(sys.argv[1])) as shelf:
    shelf.put({"a": b"safe"})
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    for size in (500_000, 10):
        try:
            shelf.put({"a": bytes(size)})
        except StorageError as error:
            print(error)
"""


def test_after_a_failed_write_the_file_is_not_written_again_until_it_is_opened_anew(tmp_path: Path) -> None:
    """A limit on file sizes makes `write` itself fail (EFBIG), as a broken disk does."""
    command = [sys.executable, "-c", FILE_LIMIT, str(tmp_path / "shelf.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert "cannot write" in first
    assert "disk I/O error" in first
    assert "failed before: disk I/O error" in second
    with Shelf(tmp_path / "shelf.db") as shelf:
        assert shelf.get("a") == b"safe"
        shelf.put({"a": b"new"})


def test_a_folder_that_cannot_be_made_or_a_path_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "shelf.db", tmp_path):
        with pytest.raises(StorageError):
            Shelf(path)


def test_a_file_that_another_process_keeps_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlite.ledger._sqlite.BUSY_SECONDS", 0.05)
    with Shelf(tmp_path / "shelf.db") as first, Shelf(tmp_path / "shelf.db") as second:
        with first._database.transaction(), pytest.raises(StorageError, match="stop the other program"):
            second.put({"a": b"1"})
        second.put({"a": b"2"})
        assert first.get("a") == b"2"
