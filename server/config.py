"""The server's settings: a job, and where it listens."""

from dataclasses import dataclass
from pathlib import Path

from fedlite.apps.settings import JobSettings
from fedlite.config import option

STATE_DIR = "the server's state: keys, devices, rounds; keep it safe, back it up"


@dataclass(frozen=True)
class Config(JobSettings):
    """A job, and the server that runs it."""

    state_dir: Path = option(Path("run/server"), STATE_DIR, metavar="DIR")
    listen: str = option("0.0.0.0:8470", "address for devices; port 0 picks a free one", metavar="HOST:PORT")
    join_listen: str = option("0.0.0.0:8471", "address for enrolment", metavar="HOST:PORT")
    advertise: str = option("", "name or address by which devices reach this machine", metavar="HOST")


@dataclass(frozen=True)
class InviteConfig:
    """`python -m server invite NAME`."""

    state_dir: Path = option(Path("run/server"), STATE_DIR, metavar="DIR")
    minutes: float = option(15.0, "how long the join code is good for")
    advertise: str = option("", "name or address by which the device reaches this machine", metavar="HOST")
    join_port: int = option(8471, "port of the enrolment service, when the server has not run yet")


@dataclass(frozen=True)
class FleetConfig:
    """`python -m server revoke NAME` and `python -m server devices`."""

    state_dir: Path = option(Path("run/server"), STATE_DIR, metavar="DIR")
