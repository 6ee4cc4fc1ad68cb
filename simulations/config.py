"""The simulator's settings: a job, and the clients it is run with."""

import os
from dataclasses import dataclass
from pathlib import Path

from fedlite.apps.settings import JobSettings
from fedlite.config import option
from fedlite.errors import SettingsError
from fedlite.virtual.engines.names import Name


@dataclass(frozen=True)
class Config(JobSettings):
    """A job and its virtual clients."""

    clients: int = option(100, "virtual clients the data set is divided among; 0 with natural: one per key")
    partition: str = option("iid", "iid, dirichlet:ALPHA[:SAMPLES], shards:2, natural, or flwr:PARTITIONER")
    devices: str = option(
        "", "kinds of device by share, as pi4:0.7,phone:0.3, for a virtual clock; none without; see `devices`"
    )
    availability: str = option(
        "always",
        "when they are there and what goes wrong: diurnal, churn:3600/600, dropout:0.08, …; joined by +",
    )
    app: Path | None = option(None, "run this Flower app, ServerApp and ClientApp, instead", metavar="DIR")
    jobs: int = option(2, "simulations of a sweep to run at a time")
    engine: Name = option(
        "auto",
        "compiled trains many clients at once; pool, one on each core with torch; torch, one after another; "
        "ray, on a cluster; auto is the fastest that can",
    )
    address: str = option(
        "", "Ray cluster to join with --engine ray, as host:port, or auto", metavar="ADDRESS"
    )
    workers: int = option(0, "cores to train on; 0 takes all; results do not depend on it")
    memory_gb: float = option(2.0, "memory for clients' updates and for what they owe; more lies on disk")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.devices and self.link:
            raise SettingsError(
                f"--link is {self.link} and --devices is {self.devices}, which have links of their own",
                remedy="give --round-time alone, or --uplink-budget",
            )
        if self.dataset.startswith("synthetic") and self.partition != "iid":
            raise SettingsError(
                f"--partition is {self.partition}, but each client of {self.dataset} has data of its own",
                remedy="leave it out; how clients differ is in the data set's name",
            )
        if self.app is not None and self.clients < 1:
            raise SettingsError(f"--clients is {self.clients}, at least 1 wanted for an app")
        if self.workers < 0:
            raise SettingsError(f"--workers is {self.workers}, at least 0 wanted")
        if not self.memory_gb > 0:
            raise SettingsError(f"--memory-gb is {self.memory_gb}, above 0 wanted")

    @property
    def has_links(self) -> bool:
        """See JobSettings: devices have links."""
        return bool(self.devices)

    @property
    def cores(self) -> int:
        """How many cores to train on."""
        if self.workers:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
