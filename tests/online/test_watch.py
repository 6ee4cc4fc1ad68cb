import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite.errors import DataError, StateError, StorageError
from fedlite.online import Watcher


def reader(path: Path) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """A file of whole numbers: a label, then values."""
    text = path.read_text()
    if "explode" in text:
        raise ZeroDivisionError("boom")
    try:
        label, *values = map(int, text.split())
    except ValueError as error:
        raise DataError(f"{path.name} is not numbers") from error
    return np.array([values], dtype=np.float32), np.array([label])


def write(path: Path, text: str, age: int) -> None:
    """A file last changed `age` seconds after 2001-09-09."""
    path.write_text(text)
    os.utime(path, (10**9 + age, 10**9 + age))


def names(arrivals: Sequence[Any]) -> list[str]:
    return [each.path.name for each in arrivals]


def test_a_file_arrives_once_at_the_second_poll_that_sees_it(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path, reader)
    assert watcher.poll() == []
    write(tmp_path / "a.txt", "3 1 2", 0)
    assert watcher.poll() == []
    ((path, x, y),) = watcher.poll()
    assert (path, x.tolist(), y.tolist()) == (tmp_path / "a.txt", [[1.0, 2.0]], [3])
    assert watcher.poll() == []
    assert path.read_text() == "3 1 2"


def test_a_file_that_still_grows_is_waited_for(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path, reader)
    for length in range(1, 5):
        write(tmp_path / "a.txt", "1 " + "7 " * length, length)
        assert watcher.poll() == []
    (arrival,) = watcher.poll()
    assert arrival.x.shape == (1, 4)


def test_unfinished_names_wait_until_they_are_renamed(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path, reader)
    for name in (".a.txt", "a.txt.part", "a.txt~", "a.tmp"):
        write(tmp_path / name, "1 2", 0)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a.tmp")
    assert [names(watcher.poll()) for _ in range(3)] == [[], [], []]
    (tmp_path / "a.txt.part").rename(tmp_path / "a.txt")
    assert [names(watcher.poll()) for _ in range(3)] == [[], ["a.txt"], []]


def test_the_oldest_come_first_and_not_more_than_asked_for(tmp_path: Path) -> None:
    for index in range(5):
        write(tmp_path / f"{index}.txt", "1 2", 100 - index)
    watcher = Watcher(tmp_path, reader)
    watcher.poll()
    assert [names(watcher.poll(limit=2)) for _ in range(4)] == [
        ["4.txt", "3.txt"],
        ["2.txt", "1.txt"],
        ["0.txt"],
        [],
    ]


def test_a_changed_file_is_a_new_one(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "1 2", 0)
    watcher = Watcher(tmp_path, reader)
    assert [names(watcher.poll()) for _ in range(2)] == [[], ["a.txt"]]
    write(tmp_path / "a.txt", "1 3", 50)
    assert [names(watcher.poll()) for _ in range(3)] == [[], ["a.txt"], []]


def test_bad_files_are_named_and_do_not_stop_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "not numbers", 0)
    write(tmp_path / "b.txt", "explode", 1)
    write(tmp_path / "c.txt", "1 2", 2)
    watcher = Watcher(tmp_path, reader)
    assert [names(watcher.poll()) for _ in range(3)] == [[], ["c.txt"], []]
    assert watcher.rejected["a.txt"].startswith("a.txt is not numbers")
    assert watcher.rejected["b.txt"] == "ZeroDivisionError: boom"
    again = Watcher(tmp_path, reader)
    assert again.rejected == watcher.rejected
    assert [names(again.poll()) for _ in range(2)] == [[], []]
    write(tmp_path / "a.txt", "1 2", 60)
    assert [names(again.poll()) for _ in range(2)] == [[], ["a.txt"]]
    again.done()
    assert set(again.rejected) == {"b.txt"}
    assert (tmp_path / "b.txt").read_text() == "explode"


def test_what_was_dealt_with_is_remembered_and_what_was_not_comes_again(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "1 2", 0)
    cut_off = Watcher(tmp_path, reader)
    assert [names(cut_off.poll()) for _ in range(2)] == [[], ["a.txt"]]
    watcher = Watcher(tmp_path, reader)  # the first one was killed before it polled again
    assert [names(watcher.poll()) for _ in range(2)] == [[], ["a.txt"]]
    watcher.done()
    assert [names(Watcher(tmp_path, reader).poll()) for _ in range(2)] == [[], []]
    again = Watcher(tmp_path, reader)
    assert [names(again.poll()) for _ in range(2)] == [[], []]


def test_a_directory_that_goes_away_comes_back_without_repeating_itself(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    write(stick / "a.txt", "1 2", 0)
    watcher = Watcher(stick, reader, ledger=tmp_path / "seen.jsonl")
    assert [names(watcher.poll()) for _ in range(3)] == [[], ["a.txt"], []]
    stick.rename(tmp_path / "pulled")
    assert watcher.poll() == []
    (tmp_path / "pulled").rename(stick)
    assert [names(watcher.poll()) for _ in range(3)] == [[], [], []]
    assert [each.name for each in stick.iterdir()] == ["a.txt"]


def test_the_ledger_forgets_files_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlite.online.watch.MOST_LINES", 8)
    watcher = Watcher(tmp_path, reader)
    for index in range(40):
        write(tmp_path / f"{index}.txt", "1 2", index)
        watcher.poll()
        assert names(watcher.poll()) == [f"{index}.txt"]
        watcher.done()
        if index >= 2:
            (tmp_path / f"{index - 2}.txt").unlink()
    assert len((tmp_path / ".fedlite-seen.jsonl").read_text().splitlines()) <= 12
    again = Watcher(tmp_path, reader)
    assert [names(again.poll()) for _ in range(2)] == [[], []]


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        Watcher(tmp_path / "missing", reader)
    (tmp_path / "seen.jsonl").write_text('{"name": 3}\n')
    with pytest.raises(StateError, match="seen"):
        Watcher(tmp_path, reader, ledger=tmp_path / "seen.jsonl")
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.txt", "1 2", 0)
    watcher = Watcher(folder, reader, ledger=tmp_path / "nowhere" / "seen.jsonl")
    watcher.poll()
    assert names(watcher.poll()) == ["a.txt"]
    with pytest.raises(StorageError):
        watcher.done()
