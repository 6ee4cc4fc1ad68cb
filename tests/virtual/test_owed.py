"""What virtual clients keep: the same from memory, from the disk, and after the program ended."""

from pathlib import Path

import numpy as np
import pytest

from fedlite.errors import StateError
from fedlite.types import Array
from fedlite.virtual.owed import Owed, Rows
from fedlite.virtual.staged import Staged

WIDTH = 6
LEARNED = np.array([True, True, True, True, False, False])


def row(number: int) -> Array:
    return np.arange(WIDTH, dtype=np.float32) + 10 * number


@pytest.mark.parametrize("near", [0, 1, 3, 100])
def test_rows_are_the_same_wherever_they_lie(tmp_path: Path, near: int) -> None:
    rows = Rows(WIDTH, near * WIDTH * 4, tmp_path)
    for client in (5, 1, 9, 3):
        rows.put(client, row(client))
    rows.put(1, row(77))
    rows.drop(9)
    rows.put(8, row(8))  # takes the place that became free
    want = {5: row(5), 1: row(77), 3: row(3), 8: row(8)}
    assert rows.clients() == sorted(want)
    for client, value in want.items():
        np.testing.assert_array_equal(rows.get(client), value)
    assert (rows.get(9), 9 in rows, len(rows)) == (None, False, 4)
    rows.close()


def test_a_long_life_takes_no_more_disk_than_clients(tmp_path: Path) -> None:
    """Every client put a hundred times: places are used again."""
    rows = Rows(WIDTH, 0, tmp_path)
    for turn in range(100):
        for client in range(7):
            rows.put(client, row(turn + client))
    for client in range(7):
        np.testing.assert_array_equal(rows.get(client), row(99 + client))
    assert max(rows._far.values()) < 8
    rows.close()


def test_what_is_old_is_forgotten_and_takes_no_room(tmp_path: Path) -> None:
    """1 owes of round 1, 2 of round 2, 3 of rounds 1 and 3: since round 2, two of them; since 3, one; since 4, none."""
    owed = Owed.empty(WIDTH, 1 << 20, tmp_path)
    owed.settle([1, 3], np.stack([row(1), row(2)]), 1)
    owed.lose([2], row(3)[None], LEARNED, 2)
    owed.settle([3], row(4)[None], 3)
    for since, left in ((1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (4, [])):
        staged = Staged(owed, 1 << 20)
        staged.settle(LEARNED, since, since)
        assert sorted([*owed.losses.clients(), *owed.lost.clients()]) == left
        assert sorted([*owed.counted, *owed.missed]) == left
        found = owed.of([1, 2, 3])
        assert (found is None) == (not left)
        if found is not None and 3 in left:
            np.testing.assert_array_equal(found[2], row(4))
    owed.close()


def test_what_the_codec_lost_grows_old_while_updates_are_lost(tmp_path: Path) -> None:
    """Counted in round 1 and never again: from round 5 on, only the last update is owed."""
    owed = Owed.empty(WIDTH, 1 << 20, tmp_path)
    owed.settle([1], np.full((1, WIDTH), 0.5, np.float32), 1)
    for round_num in range(2, 9):
        since = round_num - 3
        staged = Staged(owed, 1 << 20)
        staged.lost([1], np.full((1, WIDTH), round_num, np.float32))
        staged.settle(LEARNED, round_num, since)
        want = round_num + (0.5 if round_num <= 4 else 0)
        np.testing.assert_array_equal(owed.of([1], since), [[want] * 4 + [0, 0]])
    assert (len(owed.losses), len(owed.lost)) == (0, 1)
    owed.close()


def test_what_is_owed(tmp_path: Path) -> None:
    """By hand: a loss of the codec; a lost update on top of it, but for statistics; only the last lost update."""
    owed = Owed.empty(WIDTH, 1 << 20, tmp_path)
    assert owed.of([1, 2]) is None
    owed.settle([1], np.full((1, WIDTH), 0.5, np.float32))
    np.testing.assert_array_equal(owed.of([2, 1]), [[0] * WIDTH, [0.5] * WIDTH])
    for update in (7.0, 3.0):
        owed.lose([1, 2], np.full((2, WIDTH), update, np.float32), LEARNED)
    np.testing.assert_array_equal(owed.of([1, 2]), [[3.5] * 4 + [0, 0], [3.0] * 4 + [0, 0]])
    owed.settle([1, 2], np.full((2, WIDTH), 0.25, np.float32))
    np.testing.assert_array_equal(owed.of([1, 2]), np.full((2, WIDTH), 0.25))
    owed.settle([1, 2], None)
    owed.close()


def test_what_filters_remember_lies_behind_and_is_not_added_to(tmp_path: Path) -> None:
    """Rows two wider than updates: counted, they are replaced; lost, they are as they were before."""
    owed = Owed.empty(WIDTH + 2, 1 << 20, tmp_path)
    update = np.full((1, WIDTH), 2, np.float32)
    owed.lose([1], update, LEARNED)
    np.testing.assert_array_equal(owed.of([1]), [[2, 2, 2, 2, 0, 0, 0, 0]])
    owed.settle([1], np.array([[*[0.5] * WIDTH, 7, 9]], np.float32))
    np.testing.assert_array_equal(owed.of([1]), [[*[0.5] * WIDTH, 7, 9]])
    owed.lose([1], update, LEARNED)
    np.testing.assert_array_equal(owed.of([1]), [[2.5, 2.5, 2.5, 2.5, 0, 0, 7, 9]])
    owed.lose([1], update + 1, LEARNED)
    np.testing.assert_array_equal(owed.of([1]), [[3.5, 3.5, 3.5, 3.5, 0, 0, 7, 9]])
    owed.close()


def test_without_losses_only_lost_updates_are_owed(tmp_path: Path) -> None:
    owed = Owed.empty(WIDTH, 1 << 20, tmp_path)
    owed.lose([4], np.ones((1, WIDTH), np.float32), LEARNED)
    owed.settle([4], None)
    assert owed.of([4]) is None


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_saved_and_loaded(tmp_path: Path, limit: int) -> None:
    first = Owed.empty(WIDTH, limit, tmp_path)
    first.settle([3, 1], np.stack([row(3), row(1)]))
    first.lose([2], row(2)[np.newaxis], LEARNED)
    first.holds.update({3: 7, 1: 5})
    first.save(tmp_path / "state", 7)
    second = Owed.empty(WIDTH, limit, tmp_path)
    assert not second.load(tmp_path / "state", 6)
    assert second.of([1, 2, 3]) is None
    assert second.load(tmp_path / "state", 7)
    np.testing.assert_array_equal(second.of([1, 2, 3]), first.of([1, 2, 3]))
    assert second.holds == first.holds
    assert not second.load(tmp_path / "nothing", 7)
    first.close()
    second.close()


HEADS = {
    "no head": b"",
    "no dates": b'{"form": "fedlite.owed.3", "round": 7, "width": 6, "clients": [], "holds": []}\n',
    "no list": b'{"form": "fedlite.owed.3", "round": 7, "width": 6, "clients": 12, "holds": [], "dates": []}\n',
    "no pairs": b'{"form": "fedlite.owed.3", "round": 7, "width": 6, "clients": [], "holds": 5, "dates": []}\n',
    "deep": b"[" * 60_000 + b"\n",
}


@pytest.mark.parametrize("harm", ["cut", "altered", "longer", "width", *HEADS])
def test_a_damaged_file_is_named(tmp_path: Path, harm: str) -> None:
    owed = Owed.empty(WIDTH, 1 << 20, tmp_path)
    owed.settle([3, 1], np.stack([row(3), row(1)]))
    path = tmp_path / "state"
    owed.save(path, 7)
    data = bytearray(path.read_bytes())
    at = data.index(b"\n") + 1
    if harm == "altered":
        data[at + 5] ^= 4
    harmed = {"cut": data[: at + 9], "longer": data + b"\0\0\0\0"}
    path.write_bytes(HEADS[harm] + data[at:] if harm in HEADS else harmed.get(harm, data))
    with pytest.raises(StateError, match="damaged"):
        Owed.empty(WIDTH + (harm == "width"), 1 << 20, tmp_path).load(path, 7)
    owed.close()
