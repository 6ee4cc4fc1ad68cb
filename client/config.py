"""The device's settings."""

from dataclasses import dataclass
from pathlib import Path

from fedlite.budget import ROUND_TIME, budget_bytes
from fedlite.config import option
from fedlite.errors import SettingsError
from fedlite.student_settings import StudentSettings

STATE_DIR = "this device's state: its keys and what it has learned; never copy it to another device"


@dataclass(frozen=True)
class Config:
    """One device: its data, its processor, its state."""

    state_dir: Path = option(Path("run/device"), STATE_DIR, metavar="DIR")
    device: str = option("cpu", "processor to train on: cpu, cuda or mps")
    threads: int = option(0, "processor threads; 0 leaves the choice to torch")
    data: str = option("", "samples: a data set's name, NAME:PART/OF, or a folder, .npz or .csv of your own")
    data_dir: Path | None = option(None, "folder with the data sets; default: $FEDLITE_DATA", metavar="DIR")
    partition: str = option("iid", "how NAME:PART/OF cuts: iid, dirichlet:ALPHA, shards:2 or natural")
    seed: int = option(0, "seed of the cut; the same on every device")
    watch: Path | None = option(None, "learn from files that arrive in this folder", metavar="DIR")
    stdin: bool = option(False, "learn from lines on standard input: label,value,value,…")
    input_shape: str = option("", "shape of one arriving sample, as 1x28x28")
    num_classes: int = option(0, "number of classes of arriving samples")
    reservoir: int = option(10_000, "how many arrived samples to keep on disk")
    max_epochs: int = option(100, "most epochs done in a round on the server's word")
    max_parameters: int = option(20_000_000, "largest model taken on the server's word")
    uplink_budget: str = option(
        "", "most bytes of a report that this device sends, as 50kB; instead of the server's", metavar="BYTES"
    )
    link: str = option("", "or what this device's uplink carries, as 100kbit/s", metavar="RATE")
    round_time: str = option(
        "", f"how long it may send in a round, as 2min [{ROUND_TIME} with --link]", metavar="TIME"
    )
    student: Path | None = option(
        None,
        "the server's recipe; a device reads its teacher from it",
        metavar="RECIPE.toml",
        sets=StudentSettings,
    )
    teacher: Path | None = option(
        None, "model.safetensors whose soft labels to learn from, if the server asks for it", metavar="FILE"
    )
    server: str = option(
        "", "address of the server, if it has moved since this device joined", metavar="HOST:PORT"
    )

    def __post_init__(self) -> None:
        if not self.data and self.watch is None and not self.stdin:
            raise SettingsError(
                "there is nothing to learn from", remedy="give --data, --watch DIR or --stdin"
            )
        if self.data and (self.watch is not None or self.stdin):
            raise SettingsError("--data and --watch or --stdin at once", remedy="give one of them")
        if self.watch is not None and self.stdin:
            raise SettingsError("--watch and --stdin at once", remedy="give one of them")
        if (self.watch is not None or self.stdin) and not (self.input_shape and self.num_classes):
            raise SettingsError(
                "the form of arriving samples is unknown", remedy="give --input-shape and --num-classes"
            )
        _ = self.budget
        if self.round_time and not self.link:
            raise SettingsError(
                f"--round-time is {self.round_time}, but no link is known", remedy="give --link with it"
            )
        for name, least in (
            ("reservoir", 1),
            ("max_epochs", 1),
            ("max_parameters", 1),
            ("threads", 0),
            ("num_classes", 0),
        ):
            if getattr(self, name) < least:
                raise SettingsError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, at least {least} wanted"
                )

    @property
    def budget(self) -> int:
        """Most bytes of a report that this device's link bears; 0 is no limit but the server's."""
        return budget_bytes(self.uplink_budget, self.link, self.round_time)


@dataclass(frozen=True)
class JoinConfig:
    """`python -m client join CODE`."""

    state_dir: Path = option(Path("run/device"), STATE_DIR, metavar="DIR")
