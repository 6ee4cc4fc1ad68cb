"""The simulator's settings: a job, and the clients it is run with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedlite.apps.settings import JobSettings
from fedlite.config import option
from fedlite.errors import SettingsError


@dataclass(frozen=True)
class Config(JobSettings):
    """A job and its virtual clients."""

    clients: int = option(100, "virtual clients the data set is divided among; 0 with natural: one per key")
    partition: str = option("iid", "iid, dirichlet:ALPHA, shards:2, natural, or flwr:PARTITIONER")
    app: Path | None = option(None, "run this Flower app, ServerApp and ClientApp, instead", metavar="DIR")
    jobs: int = option(2, "simulations of a sweep to run at a time")
    engine: Literal["auto", "torch"] = option(
        "auto", "auto trains cohorts in the compiled kernel where it can, torch one client after another"
    )
    workers: int = option(1, "clients trained at the same time; results do not depend on it")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.app is not None and self.clients < 1:
            raise SettingsError(f"--clients is {self.clients}, at least 1 wanted for an app")
        if self.workers < 1:
            raise SettingsError(f"--workers is {self.workers}, at least 1 wanted")
