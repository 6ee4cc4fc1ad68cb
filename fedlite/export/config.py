"""The options of python -m fedlite.export."""

from dataclasses import dataclass
from pathlib import Path

from fedlite.config import option
from fedlite.errors import SettingsError

MAX_THREADS = 256  # runtimes make them all at once, whatever the machine has


@dataclass(frozen=True)
class Config:
    """What to write, and what to check it with."""

    runtime: str = option("onnxruntime", "the runtime that will run the file", metavar="NAME")
    out: Path | None = option(None, "the file to write; by default MODEL's name with the runtime's suffix")
    data: str = option("", "held-out examples: a data set, a path of your own data, or x.npy", metavar="DATA")
    data_dir: Path | None = option(None, "folder of the data sets")
    samples: int = option(1000, "at most so many held-out examples are compared")
    calibration: int = option(256, "so many training examples set the ranges of a float32 model")
    observer: str = option(
        "percentile:99.99", "how ranges of a float32 model are found: minmax, percentile:P"
    )
    threads: int = option(1, "threads of the runtime")
    seconds: float = option(1.0, "how long latency is measured")
    json: bool = option(False, "one JSON line in place of the table")

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("samples", "calibration", "threads", "seconds"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"--{name} is {getattr(self, name)}; more than 0 wanted")
        if self.threads > MAX_THREADS:
            raise SettingsError(f"--threads is {self.threads}; at most {MAX_THREADS} wanted")
        if not self.data:
            raise SettingsError(
                "--data is missing: an exported file is compared with the model on real examples",
                remedy="--data digits, --data PATH of your own data, or --data x.npy",
            )
