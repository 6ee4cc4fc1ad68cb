"""The settings of a federated job, shared by every program that runs one."""

import hashlib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fedlite.budget import ROUND_TIME, budget_bytes
from fedlite.config import option
from fedlite.errors import SettingsError
from fedlite.student_settings import StudentSettings
from fedlite.train_settings import TrainSettings


@dataclass(frozen=True)
class JobSettings(StudentSettings):
    """What is trained, how, and with whom. Each field is a flag, a TOML key and a line of config.json."""

    rounds: int = option(20, "rounds to run in all; raise it and start again to continue")
    dataset: str = option("digits", "data set, or folder/.npz/.csv of your own, that the model is tested on")
    data_dir: Path | None = option(None, "folder with the data sets; default: $FEDLITE_DATA", metavar="DIR")
    model: str = option(
        "auto", "model, with options as mobilenet_v2:width=0.5,norm=batch; auto picks one for the data set"
    )
    input_shape: str = option(
        "", "shape of one sample, as 1x28x28, when there are no test data to take it from"
    )
    num_classes: int = option(0, "number of classes, when there are no test data to count them in")
    strategy: str = option(
        "fedavg", "fedavg, fedprox:mu=0.01, fedadam:…, feddf, or flwr:NAME:key=value for Flower's"
    )
    public: str = option(
        "", "with feddf: examples, as --data names them, on which the server distils; labels are not used"
    )
    cohort: int = option(0, "clients per round; 0 takes all that are there")
    over_selection: float = option(1.0, "ask this many times the cohort; the first to answer count")
    quorum: int = option(2, "fewest results a round is worth; also how many clients to wait for")
    deadline_seconds: float = option(600.0, "longest wait for a round's results")
    max_examples: int = option(100_000, "largest example count believed of one client")
    epochs: int = option(5, "local epochs per round")
    batch_size: int = option(10, "local batch size; 0 is all samples at once")
    optimizer: Literal["sgd", "adam"] = option("sgd", "local optimizer")
    learning_rate: float = option(0.1, "local learning rate")
    momentum: float = option(0.0, "local momentum")
    weight_decay: float = option(0.0, "local weight decay")
    clip_norm: float = option(0.0, "clip local gradients to this L2 norm; 0 is off")
    student: Path | None = option(
        None,
        "how the model is made small: a TOML file of the options start to temperature",
        metavar="RECIPE.toml",
        sets=StudentSettings,
    )
    uplink_codec: str = option("int8", "how updates are coded")
    downlink_codec: str = option("int8", "how model versions are coded")
    uplink_budget: str = option(
        "", "most bytes of a report, as 50kB; updates are coded as finely as fits", metavar="BYTES"
    )
    link: str = option("", "or what clients' uplinks carry, as 100kbit/s", metavar="RATE")
    round_time: str = option(
        "", f"how long a client may send in a round, as 2min [{ROUND_TIME} with --link]", metavar="TIME"
    )
    evaluate_every: int = option(1, "test the model every so many rounds; 0 is never")
    seed: int = option(0, "the run's seed: same seed, same bytes")
    run_dir: Path | None = option(None, "folder for results", metavar="DIR")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("quorum", "rounds", "max_examples"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name.replace('_', '-')} is {getattr(self, name)}, at least 1 wanted")
        for name in ("cohort", "evaluate_every", "num_classes"):
            if getattr(self, name) < 0:
                raise SettingsError(f"--{name.replace('_', '-')} is {getattr(self, name)}, at least 0 wanted")
        if (self.strategy == "feddf") != bool(self.public):
            raise SettingsError(
                f"--strategy is {self.strategy} and --public is {self.public!r}",
                remedy="feddf distils on public examples: give --public with it, and with it alone",
            )
        if not 1 <= self.over_selection < math.inf:
            raise SettingsError(f"--over-selection is {self.over_selection}, at least 1 wanted")
        if self.cohort and self.cohort < self.quorum:
            raise SettingsError(f"--cohort is {self.cohort}, below --quorum {self.quorum}")
        if not self.deadline_seconds > 0:
            raise SettingsError(f"--deadline-seconds is {self.deadline_seconds}, above 0 wanted")
        TrainSettings(**self.train_settings())
        _ = self.budget
        if self.round_time and not (self.link or self.has_links):
            raise SettingsError(
                f"--round-time is {self.round_time}, but no link is known", remedy="give --link with it"
            )

    @property
    def budget(self) -> int:
        """Most bytes of a report, of clients that have no limit of their own; 0 is no limit."""
        return budget_bytes(self.uplink_budget, self.link, self.round_time)

    @property
    def has_links(self) -> bool:
        """Whether each client's own link is known."""
        return False

    def train_settings(self) -> dict[str, Any]:
        """The fields of TrainSettings, as sent to clients."""
        names = (
            "epochs",
            "batch_size",
            "optimizer",
            "learning_rate",
            "momentum",
            "weight_decay",
            "clip_norm",
        )
        more = ["bits", "arithmetic", "learn", "autocast"]
        more += ["distill_alpha", "temperature"] if self.teacher else []
        return {name: getattr(self, name) for name in (*names, *more)}

    def identity(self) -> dict[str, Any]:
        """What may not change while a run goes on."""
        names = ("dataset", "model", "strategy", "public", "seed", "uplink_codec", "downlink_codec")
        student = (item.name for item in fields(StudentSettings))
        return {name: _known(getattr(self, name)) for name in (*names, *student)}


def _known(value: Any) -> Any:
    """A file by what it holds, wherever it lies."""
    if isinstance(value, str) and value.endswith((".npz", ".csv")):
        value = Path(value)
    if not isinstance(value, Path):
        return value
    try:
        return hashlib.sha256(value.read_bytes()).hexdigest()
    except OSError as error:
        raise SettingsError(f"cannot read {value}: {error.strerror}") from error


@dataclass(frozen=True)
class FlowerSettings(JobSettings):
    """The run config of `flwr run .`: a job, and how each node's share of the data set is cut."""

    partition: str = option("iid", "iid, dirichlet:ALPHA, shards:2 or natural")
    clients: int = option(0, "shares to cut; 0 takes the node's own num-partitions")
