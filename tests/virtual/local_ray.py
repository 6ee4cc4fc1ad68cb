"""A Ray on this machine for all tests of one process, and the engine of one of them."""

import atexit
import functools
import logging
import os
import warnings

import ray

from fedlite.virtual.engines.base import Share
from fedlite.virtual.engines.ray_cluster import RayCluster

CORES = 4  # as Ray counts them: room for two engines with two workers each


@functools.cache
def start() -> None:
    """Once per process. What Ray leaves to the garbage collector is its own (ResourceWarning)."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        ray.init(
            address="local",
            num_cpus=CORES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 * 2**20,
        )
    atexit.register(ray.shutdown)


def share() -> Share:
    """What the conformance tests train on; as a function, so that it pickles by name."""
    from tests.conformance import test_engines

    return test_engines.share


@functools.cache
def engine() -> RayCluster:
    """With two workers, for as long as the tests run."""
    start()
    made = RayCluster(share, 2)
    made.close = lambda: None  # type: ignore[method-assign]  # it belongs to all tests
    return made
