"""On a Ray cluster rows are those of one process, whoever dies, and on two machines too."""

import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray

from fedlite.errors import SettingsError
from fedlite.virtual.engines.base import Samples, Share
from fedlite.virtual.engines.compiled import Compiled
from fedlite.virtual.engines.loop import Loop
from fedlite.virtual.engines.ray_cluster import RayCluster
from tests.conformance.test_engines import share, work
from tests.virtual import local_ray

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CLIENTS, SEEDS = list(range(20)), list(range(100, 120))
FATAL = 5


def opened(marker: Path, client: int) -> Samples:
    """Client FATAL kills the process that opens it: once when there is a folder for the marker, else always."""
    if client == FATAL and not marker.exists():
        if marker.parent.is_dir():
            marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return share(client)


def opener(marker: Path) -> Share:
    return partial(opened, marker)


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam"}], ids=["compiled", "torch"])
def test_two_workers_give_what_one_process_gives(settings: dict[str, object]) -> None:
    given = work(**settings)
    alone = (Loop(share) if settings else Compiled(share, 1)).train(given, CLIENTS, SEEDS)
    two = local_ray.engine().train(given, CLIENTS, SEEDS)
    np.testing.assert_array_equal(two.updates, alone.updates)
    np.testing.assert_array_equal(two.loss, alone.loss)


def test_one_worker_gives_what_two_give_and_a_block_may_be_small() -> None:
    local_ray.start()
    one, given = RayCluster(local_ray.share, 1), work()
    two = local_ray.engine().train(given, CLIENTS, SEEDS)
    np.testing.assert_array_equal(one.train(given, CLIENTS, SEEDS).updates, two.updates)
    np.testing.assert_array_equal(one.train(given, CLIENTS[3:4], SEEDS[3:4]).updates, two.updates[3:4])
    one.close()
    assert ray.is_initialized(), "a Ray that was there before stays"


def test_a_killed_trainer_does_not_show(tmp_path: Path) -> None:
    local_ray.start()
    engine, given = RayCluster(partial(opener, tmp_path / "killed"), 2), work()
    done = engine.train(given, CLIENTS, SEEDS)
    engine.close()
    assert (tmp_path / "killed").exists()
    np.testing.assert_array_equal(done.updates, Compiled(share, 1).train(given, CLIENTS, SEEDS).updates)
    assert done.failed == {}


def test_who_kills_every_trainer_fails_alone_and_by_name(tmp_path: Path) -> None:
    local_ray.start()
    engine, given = RayCluster(partial(opener, tmp_path / "none" / "killed"), 2), work()
    done = engine.train(given, CLIENTS, SEEDS)
    engine.close()
    assert list(done.failed) == [FATAL]
    assert f"client {FATAL} ended twice" in done.failed[FATAL]
    others = [place for place in range(len(CLIENTS)) if place != FATAL]
    wanted = Compiled(share, 1).train(given, others, [SEEDS[place] for place in others])
    np.testing.assert_array_equal(done.updates[others], wanted.updates)


def test_what_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    local_ray.start()
    with pytest.raises(SettingsError, match="has 4 cores, 99 workers"):
        RayCluster(local_ray.share, 99)
    with pytest.raises(SettingsError, match="workers is 0"):
        RayCluster(local_ray.share, 0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'fedlite\[sim\]'"):
        RayCluster(local_ray.share, 1)


def test_a_ray_of_its_own_ends_with_it() -> None:
    program = (
        "import ray; from fedlite.virtual.engines.ray_cluster import RayCluster;"
        "from tests.virtual.local_ray import share; engine = RayCluster(share, 1);"
        "print(int(ray.cluster_resources()['CPU'])); engine.close(); print(ray.is_initialized())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.stdout, done.returncode) == ("1\nFalse\n", 0), done.stderr


def test_two_machines_and_one_of_them_lost() -> None:
    """Each Ray node is in a network namespace of its own; they meet over a virtual cable."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="fl", dir="/tmp") as folder:  # the path of a socket must be short
        command = ["unshare", "-Urnmp", "--fork", "--kill-child", "--mount-proc", "bash"]
        command += [str(HERE / "two_hosts.sh"), folder, sys.executable, str(HERE / "two_hosts.py"), folder]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()  # Ray reports a lost node there too
    assert "nodes 10.77.0.1 10.77.0.2" in said
    assert "one is enough {}" in said
