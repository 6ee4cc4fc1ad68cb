"""On the first of two Ray nodes: rows are those of one process, from both nodes; and when one is gone."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import ray

from fedlite.virtual.engines.base import Share
from fedlite.virtual.engines.compiled import Compiled
from fedlite.virtual.engines.ray_cluster import RayCluster
from tests.conformance.test_engines import share, work

CLIENTS = list(range(24))


def seen_at(folder: str) -> Share:
    """The share; a file tells which node opened it."""
    Path(folder, ray.util.get_node_ip_address()).touch()
    return share


def main(folder: str) -> None:
    given = work()
    wanted = Compiled(share, 1).train(given, CLIENTS, CLIENTS)
    engine = RayCluster(partial(seen_at, folder), 2, "10.77.0.1:6390")
    done = engine.train(given, CLIENTS, CLIENTS)
    np.testing.assert_array_equal(done.updates, wanted.updates)
    print("nodes", *sorted(path.name for path in Path(folder).glob("10.77.*")))
    for process in psutil.process_iter(["cmdline"]):  # the second node's: nobody else's are in this namespace
        line = " ".join(process.info["cmdline"] or ())
        if "raylet" in line and "10.77.0.2" in line:
            os.kill(process.pid, signal.SIGKILL)
    done = engine.train(given, CLIENTS, CLIENTS)
    np.testing.assert_array_equal(done.updates, wanted.updates)
    print("one is enough", done.failed)
    engine.close()


if __name__ == "__main__":
    main(sys.argv[1])
