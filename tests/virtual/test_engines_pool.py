"""The pool is the loop, bit for bit, and survives the death of anyone but its parent."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from fedlite.errors import SettingsError
from fedlite.virtual.engines.base import Samples, Share
from fedlite.virtual.engines.loop import Loop
from fedlite.virtual.engines.pool import Pool
from fedlite.virtual.rows import Trained
from tests.conformance.test_engines import share, work

ROOT = Path(__file__).resolve().parents[2]
CLIENTS, SEEDS = list(range(12)), list(range(100, 112))
FATAL = 5


@pytest.fixture
def pools() -> Iterator[list[Pool]]:
    """Pools put on this list are closed."""
    made: list[Pool] = []
    yield made
    for pool in made:
        pool.close()


def same(left: Trained, right: Trained) -> None:
    np.testing.assert_array_equal(left.updates, right.updates)
    np.testing.assert_array_equal(left.loss, right.loss)
    np.testing.assert_array_equal(left.accuracy, right.accuracy)
    np.testing.assert_array_equal(left.counts, right.counts)
    assert left.failed == right.failed


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # nobody may be there to bury it
    except psutil.NoSuchProcess:
        return True


def await_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, f"{pids} still run"
        time.sleep(0.05)


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam"}, {"bits": 8}], ids=str)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_it_is_the_loop_bit_for_bit(pools: list[Pool], workers: int, settings: dict[str, object]) -> None:
    pools.append(Pool(share, workers))
    given = work(**settings)
    same(pools[0].train(given, CLIENTS, SEEDS), Loop(share).train(given, CLIENTS, SEEDS))


def test_models_may_change_from_block_to_block(pools: list[Pool]) -> None:
    """A longer row needs more memory, which only new workers have; a shorter one does not."""
    pools.append(Pool(share, 2))
    for name in ("linear", "2nn", "linear"):
        given = work(name)
        before = pools[0].pids
        same(pools[0].train(given, CLIENTS, SEEDS), Loop(share).train(given, CLIENTS, SEEDS))
    assert pools[0].pids == before


def once(marker: Path, how: int) -> Share:
    """Kills the process that opens client FATAL, the first time."""

    def opened(client: int) -> Samples:
        if client == FATAL and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), how)
        return share(client)

    return opened


def test_a_killed_worker_does_not_show(pools: list[Pool], tmp_path: Path) -> None:
    pools.append(Pool(once(tmp_path / "killed", signal.SIGKILL), 2))
    given = work()
    pools[0].train(given, [0], [0])
    before = pools[0].pids
    same(pools[0].train(given, CLIENTS, SEEDS), Loop(share).train(given, CLIENTS, SEEDS))
    assert (tmp_path / "killed").exists()
    assert len(set(before) - set(pools[0].pids)) == 1
    await_gone(list(set(before) - set(pools[0].pids)))


def test_workers_killed_between_blocks_do_not_show(pools: list[Pool]) -> None:
    pools.append(Pool(share, 2))
    given = work()
    pools[0].train(given, CLIENTS, SEEDS)
    for pid in pools[0].pids:
        os.kill(pid, signal.SIGKILL)
    await_gone(pools[0].pids)
    same(pools[0].train(given, CLIENTS, SEEDS), Loop(share).train(given, CLIENTS, SEEDS))


def fatal(client: int) -> Samples:
    if client == FATAL:
        os._exit(3)
    return share(client)


@pytest.mark.parametrize("workers", [1, 3])
def test_who_kills_every_worker_fails_alone_and_by_name(pools: list[Pool], workers: int) -> None:
    pools.append(Pool(fatal, workers))
    given = work()
    done = pools[0].train(given, CLIENTS, SEEDS)
    assert list(done.failed) == [FATAL]
    assert f"client {FATAL} ended 2 times" in done.failed[FATAL]
    assert "exit status 3" in done.failed[FATAL]
    others = [place for place in range(len(CLIENTS)) if place != FATAL]
    wanted = Loop(share).train(given, others, [SEEDS[place] for place in others])
    np.testing.assert_array_equal(done.updates[others], wanted.updates)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """An interrupt raises, also where the tests run in the background of a shell, which has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_only_the_parent_hears_an_interrupt(pools: list[Pool]) -> None:
    """It ends the workers and what they were at; the next block finds new ones."""
    parent = os.getpid()

    def interrupting(client: int) -> Samples:
        if client == FATAL:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(parent, signal.SIGINT)
            time.sleep(60)
        return share(client)

    pools.append(Pool(interrupting, 2))
    given = work()
    pools[0].train(given, [0], [0])
    before = pools[0].pids
    with pytest.raises(KeyboardInterrupt):
        pools[0].train(given, CLIENTS, SEEDS)
    await_gone(before)
    same(pools[0].train(given, [1, 2], [3, 4]), Loop(share).train(given, [1, 2], [3, 4]))


def run(text: str, threads: int = 1) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(text)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_killed_parent_leaves_nobody() -> None:
    parent = run("""
        import os, sys, time
        from fedlite.virtual.engines.pool import Pool
        from tests.conformance.test_engines import share, work
        def slow(client):
            if client:
                print(os.getpid(), flush=True)
                time.sleep(600)
            return share(client)
        Pool(slow, 2).train(work(), [0, 1, 2], [0, 1, 2])
    """)
    assert parent.stdout
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await_gone(workers)


def test_torch_may_have_computed_on_many_threads_before() -> None:
    """Threads of OpenMP do not live on in a forked process; workers must not wait for them."""
    with run(
        """
        import torch
        from fedlite.virtual.engines.pool import Pool
        from fedlite.virtual.engines.loop import Loop
        from tests.conformance.test_engines import share, work
        torch.set_num_threads(4)
        a = torch.rand(700, 700, requires_grad=True)
        (a @ a).exp().sum().backward()
        torch.rand(10**6).sin()
        given = work()
        there = Pool(share, 2).train(given, [0, 1, 2], [0, 1, 2])
        torch.set_num_threads(1)
        here = Loop(share).train(given, [0, 1, 2], [0, 1, 2])
        print((there.updates == here.updates).all(), there.failed)
        """,
        threads=4,
    ) as parent:
        assert parent.stdout
        assert parent.stdout.read() == "True {}\n"


def test_no_workers_are_refused() -> None:
    with pytest.raises(SettingsError, match="workers is 0"):
        Pool(share, 0)
