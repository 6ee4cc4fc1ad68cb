"""The command line of python -m fedlite.profile."""

from dataclasses import dataclass
from pathlib import Path

from fedlite.config import option
from fedlite.errors import SettingsError

MAX_THREADS = 256  # libraries make them all at once, whatever the machine has


@dataclass(frozen=True)
class Config:
    """What to profile or to search, and how."""

    input: str = option("", "shape of one example, e.g. 3x224x224; by default the model's own")
    batch: int = option(1, "examples at a time in inference")
    train_batch: int = option(16, "examples at a time in training")
    threads: int = option(1, "threads that compute")
    seconds: float = option(2.0, "how long to time inference, at least")
    json: bool = option(False, "one line of JSON instead of a table")
    layers: bool = option(False, "a table of layers as well")
    search: str = option("", "family, with options, whose smaller relatives to search", metavar="FAMILY")
    budget: str = option("", "what the device has, e.g. latency=5ms,size=1MB,memory=20MB")
    data: str = option("", "training data that rank the candidates; without, multiply-adds do")
    data_dir: Path | None = option(None, "folder with the npz data sets")
    ratios: str = option("0,0.25,0.5,0.75", "shares of channels that structured pruning removes")
    candidates: int = option(16, "most candidates that are trained")
    samples: int = option(4000, "most samples of --data that are used")
    learning_rate: float = option(0.05, "of the short trainings")
    seed: int = option(0, "of the short trainings")
    out: Path = option(Path("run/search"), "folder of the search: its cache, the winner, the table")

    def __post_init__(self) -> None:
        """Check what no other module checks."""
        for name in ("batch", "train_batch", "threads", "candidates", "samples"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; at least 1 wanted")
        if self.threads > MAX_THREADS:
            raise SettingsError(f"threads is {self.threads}; at most {MAX_THREADS} wanted")
        if not 0 < self.seconds <= 3600:
            raise SettingsError(f"seconds is {self.seconds}; above 0 and at most 3600 wanted")
        if not 0 < self.learning_rate < 1e6:
            raise SettingsError(f"learning_rate is {self.learning_rate}; above 0 wanted")
        if bool(self.search) != bool(self.budget):
            raise SettingsError("--search FAMILY and --budget go together", remedy="give both or neither")
