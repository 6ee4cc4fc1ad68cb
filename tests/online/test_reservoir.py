import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlite.errors import DataError, SettingsError, StateError, StorageError
from fedlite.online.reservoir import Reservoir, places

SHAPE = (2, 3)


def stream(first: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Sample k holds k everywhere, and its label is k mod 10: content says where it came from."""
    numbers = np.arange(first, first + count)
    return np.broadcast_to(numbers[:, None, None], (count, *SHAPE)).astype(np.float32), numbers % 10


def fill(path: Path, capacity: int, batches: list[int], seed: int = 7) -> tuple[list[int], int]:
    """Which samples are held after a stream offered in these batches, and how many were seen."""
    with Reservoir(path, capacity, SHAPE, 10, seed) as reservoir:
        first = reservoir.seen
        for count in batches:
            reservoir.add(*stream(first, count))
            first += count
        x, y = reservoir.all()
        assert np.array_equal(x[:, 0, 0].astype(int) % 10, y)
        assert (x == x[:, :1, :1]).all()
        return x[:, 0, 0].astype(int).tolist(), reservoir.seen


def algorithm_r(seed: int, total: int, capacity: int) -> dict[int, int]:
    """slot → sample after the whole stream, one arrival at a time."""
    held: dict[int, int] = {}
    for number in range(total):
        held |= dict.fromkeys(places(seed, number, 1, capacity), number)
    return held


def test_every_sample_is_kept_equally_often() -> None:
    """χ² over 500 seeds: 10 of 100 samples are kept, so each is kept 50 times on average, variance 500·0.1·0.9.

    With 99 degrees of freedom 99.8 % of honest outcomes lie between 61.1 and 148.2.
    """
    kept = Counter[int]()
    for seed in range(500):
        kept.update(algorithm_r(seed, 100, 10).values())
    statistic = sum((kept[number] - 50) ** 2 / 45 for number in range(100)) * 99 / 100
    assert 61.1 < statistic < 148.2


def test_every_pair_of_slots_is_hit_equally_often() -> None:
    """Arrival 1000 goes to each of 10 slots with probability 1/1001: over 20,000 seeds about 20 times each.

    χ² with 9 degrees of freedom stays under 27.9 in 99.9 % of honest outcomes.
    """
    hits = Counter(slot for seed in range(20_000) for slot in places(seed, 1000, 1, 10))
    expected = 20_000 / 1001
    assert sum((hits[slot] - expected) ** 2 / expected for slot in range(10)) < 27.9


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 20))
def test_batches_do_not_matter(batches: list[int], capacity: int) -> None:
    held: dict[int, int] = {}
    seen = 0
    for count in batches:
        held |= {slot: seen + index for slot, index in places(3, seen, count, capacity).items()}
        seen += count
    assert held == algorithm_r(3, seen, capacity)


def test_the_file_holds_what_the_algorithm_says(tmp_path: Path) -> None:
    found, seen = fill(tmp_path / "r", 20, [7, 1, 50, 0, 142])
    assert seen == 200
    assert found == [algorithm_r(7, 200, 20)[slot] for slot in range(20)]


def test_a_restart_between_any_two_batches_changes_nothing(tmp_path: Path) -> None:
    for count in (15, 30, 5, 70):
        found = fill(tmp_path / "restarted", 20, [count])
    assert found == fill(tmp_path / "whole", 20, [120])


def test_it_holds_everything_until_it_is_full(tmp_path: Path) -> None:
    with Reservoir(tmp_path / "r", 8, SHAPE, 10, 0) as reservoir:
        assert len(reservoir) == 0
        assert reservoir.all()[0].shape == (0, *SHAPE)
        assert reservoir.sample(3, 0)[0].shape == (0, *SHAPE)
        reservoir.add(*stream(0, 5))
        assert len(reservoir) == 5
        assert reservoir.all()[0][:, 0, 0].tolist() == [0, 1, 2, 3, 4]
        reservoir.add(*stream(5, 50))
        assert (len(reservoir), reservoir.seen) == (8, 55)


def test_sample_draws_without_repeating_and_by_its_seed(tmp_path: Path) -> None:
    with Reservoir(tmp_path / "r", 30, SHAPE, 10, 0) as reservoir:
        reservoir.add(*stream(0, 30))
        x, y = reservoir.sample(10, 1)
        assert x.shape == (10, *SHAPE)
        assert len(set(x[:, 0, 0].tolist())) == 10
        assert np.array_equal(x[:, 0, 0].astype(int) % 10, y)
        assert np.array_equal(x, reservoir.sample(10, 1)[0])
        assert not np.array_equal(x, reservoir.sample(10, 2)[0])
        assert sorted(reservoir.sample(99, 3)[0][:, 0, 0].tolist()) == list(range(30))


def test_the_file_stops_growing(tmp_path: Path) -> None:
    """50 samples of 3,136 bytes in pages of 4,096 and some to spare, and a log of 1 MiB and one `add`."""
    largest = 2 * 50 * 4096
    x, y = np.ones((20, 1, 28, 28), np.float32), np.zeros(20, np.int64)
    with Reservoir(tmp_path / "r", 50, (1, 28, 28), 10, 0) as reservoir:
        for _ in range(400):
            reservoir.add(x, y)
            assert sum(each.stat().st_size for each in tmp_path.iterdir()) < largest + 2**20 + 2**18
    assert [each.name for each in tmp_path.iterdir()] == ["r"]
    assert (tmp_path / "r").stat().st_size < largest


def test_a_killed_process_loses_nothing_it_was_told_of(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom fedlite.online.reservoir import Reservoir\n"
        "from tests.online.test_reservoir import stream, SHAPE\n"
        "reservoir = Reservoir(Path(sys.argv[1]), 20, SHAPE, 10, 7)\n"
        "for n in range(10**6):\n    reservoir.add(*stream(3 * n, 3)); print(reservoir.seen, flush=True)\n"
    )
    path = tmp_path / "r"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(40):
            told = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        told = max([told, *map(int, writer.stdout.read().split())])
    found, seen = fill(path, 20, [])
    assert seen >= told
    assert seen % 3 == 0
    assert found == [algorithm_r(7, seen, 20)[slot] for slot in range(20)]


def test_a_full_disk_loses_only_what_it_refused(tmp_path: Path) -> None:
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom fedlite.errors import StorageError\n"
        "from fedlite.online.reservoir import Reservoir\nfrom tests.online.test_reservoir import stream, SHAPE\n"
        "reservoir = Reservoir(Path(sys.argv[1]), 10**6, SHAPE, 10, 7)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "for n in range(10**4):\n    try: reservoir.add(*stream(100 * n, 100))\n"
        "    except StorageError: break\nprint(100 * n)\n"
    )
    path = tmp_path / "r"
    ran = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    seen = int(ran.stdout)
    assert seen > 0
    assert fill(path, 10**6, [5]) == (list(range(seen + 5)), seen + 5)


def test_threads_may_share_it(tmp_path: Path) -> None:
    with Reservoir(tmp_path / "r", 20, SHAPE, 10, 0) as reservoir:
        adders = [
            threading.Thread(target=lambda: [reservoir.add(*stream(0, 5)) for _ in range(10)])
            for _ in range(4)
        ]
        for thread in adders:
            thread.start()
        while any(thread.is_alive() for thread in adders):
            assert len(reservoir.sample(5, 0)[1]) <= 5
        for thread in adders:
            thread.join()
        assert reservoir.seen == 4 * 10 * 5


@pytest.mark.parametrize(
    ("name", "value"),
    [("capacity", 21), ("input_shape", (3, 2)), ("num_classes", 11), ("seed", 8), ("dtype", "uint8")],
)
def test_another_form_is_refused_and_named(tmp_path: Path, name: str, value: object) -> None:
    form = {"capacity": 20, "input_shape": SHAPE, "num_classes": 10, "seed": 7}
    fill(tmp_path / "r", 20, [30])
    with pytest.raises(StateError, match=name):
        Reservoir(tmp_path / "r", **(form | {name: value}))  # type: ignore[arg-type]
    assert fill(tmp_path / "r", 20, [])[1] == 30


def test_what_is_not_a_reservoir_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("my thesis " * 100)
    with pytest.raises(StateError, match="text"):
        Reservoir(tmp_path / "text", 20, SHAPE, 10, 7)
    assert (tmp_path / "text").read_text() == "my thesis " * 100
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(StateError, match="not a fedlite reservoir"):
        Reservoir(tmp_path / "other", 20, SHAPE, 10, 7)
    with pytest.raises(StorageError):
        Reservoir(tmp_path / "text" / "r", 20, SHAPE, 10, 7)


@pytest.mark.parametrize("form", [(0, 10, "float32"), (5, 0, "float32"), (5, 10, "object")])
def test_a_form_without_sense_is_refused(tmp_path: Path, form: tuple[int, int, str]) -> None:
    with pytest.raises(SettingsError):
        Reservoir(tmp_path / "r", form[0], SHAPE, form[1], 0, dtype=form[2])


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((2, 3, 2)), np.zeros(2, int)),
        (np.zeros((2, *SHAPE)), np.zeros(3, int)),
        (np.zeros((2, *SHAPE)), np.zeros(2)),
        (np.zeros((2, *SHAPE)), np.array([0, 10])),
        (np.zeros((2, *SHAPE)), np.array([0, -1])),
        (np.full((2, *SHAPE), np.nan), np.zeros(2, int)),
        (np.full((2, *SHAPE), 1e300), np.zeros(2, int)),
        (np.zeros((2, *SHAPE), dtype=complex), np.zeros(2, int)),
        (np.full((2, *SHAPE), "a"), np.zeros(2, int)),
    ],
)
def test_samples_of_another_form_are_refused_whole(tmp_path: Path, x: NDArray, y: NDArray) -> None:  # type: ignore[type-arg]
    with Reservoir(tmp_path / "r", 20, SHAPE, 10, 7) as reservoir:
        with pytest.raises(DataError):
            reservoir.add(x, y)
        assert reservoir.seen == 0


@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_text_and_images_keep_their_type(tmp_path: Path, dtype: str) -> None:
    with Reservoir(tmp_path / "r", 20, (4,), 10, 7, dtype=dtype) as reservoir:
        x = np.arange(8, dtype=dtype).reshape(2, 4)
        reservoir.add(x, np.array([1, 2]))
        assert reservoir.all()[0].dtype == dtype
        assert np.array_equal(reservoir.all()[0], x)
        with pytest.raises(DataError):
            reservoir.add(x.astype(np.float32), np.array([1, 2]))


def test_only_the_owner_can_read_the_samples(tmp_path: Path) -> None:
    with Reservoir(tmp_path / "r", 20, SHAPE, 10, 7) as reservoir:
        reservoir.add(*stream(0, 5))
        assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}
