"""A job from its settings: what the server and the simulator share."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError

from fedlite.apps.cohort import Party
from fedlite.apps.device import open_teacher
from fedlite.apps.model import Evaluate, choose, open_test, score, write
from fedlite.apps.origin import write_origin
from fedlite.apps.server import Job, make_rule
from fedlite.apps.settings import JobSettings
from fedlite.budget import longest
from fedlite.compress.presets import codec_by_name
from fedlite.compress.rate import check_adjustable, hopeless
from fedlite.crypto.seal import OVERHEAD_BYTES as SEAL_BYTES
from fedlite.errors import SettingsError, StateError, StorageError, UpdateError
from fedlite.ledger.store import Ledger
from fedlite.modules import module_of
from fedlite.results.folder import ROWS_FILE
from fedlite.results.lines import write_whole
from fedlite.rounds import Model, Rule
from fedlite.seeds import derive
from fedlite.tensors import zeros_like
from fedlite.train_settings import TrainSettings
from fedlite.types import Params
from fedlite.uplink import Clear, Receiver, clear_size

if TYPE_CHECKING:
    from fedlite.data.base import Dataset


@dataclass(frozen=True)
class Workshop:
    """Makes the first model, tests every next one, and writes out the last.

    Test data are opened when needed, unless they are `given`; `evaluate` tests models, if not torch. `sealed` says
    whether reports are.
    """

    settings: JobSettings
    given: "Dataset | None" = None
    evaluate: Evaluate | None = None
    sealed: bool = False

    @cached_property
    def test(self) -> "Dataset | None":
        """The test data, or None where there are none."""
        return self.given if self.given is not None else open_test(self.settings)

    @cached_property
    def first(self) -> tuple[str, Params]:
        """(ModelSpec as JSON, first parameters) of the student, from the run's seed."""
        from fedlite.student import make

        return make(self.asked, self.settings, derive(self.settings.seed, "model"))

    def origin(self) -> str:
        """How devices can make the first model themselves, or nothing."""
        return write_origin(self.asked, self.settings)

    @cached_property
    def asked(self) -> str:
        """The ModelSpec, as JSON, that the student is made of."""
        return choose(self.settings, self.test)

    @property
    def spec(self) -> str:
        """The ModelSpec as JSON."""
        return self.first[0]

    @cached_property
    def rule(self) -> Rule:
        """How results become the next model."""
        return make_rule(self.settings, lambda: self.spec)

    @cached_property
    def teacher(self) -> str:
        """The name of the model that teaches, or none."""
        teacher = open_teacher(self.settings.teacher)
        return teacher.name if teacher is not None else ""

    def check(self, *, new: bool = True) -> None:
        """Raise SettingsError before anything is written, or anyone asked, for what every round would refuse.

        A `new` run's model is made and meets a test sample, which loads torch; an old run's model has done so.
        """
        settings = self.settings
        rule = self.rule
        TrainSettings(**settings.train_settings() | dict(rule.client_settings()))
        for name in (settings.uplink_codec, settings.downlink_codec):
            codec_by_name(name)
        if settings.budget or settings.round_time:
            check_adjustable(codec_by_name(settings.uplink_codec))
        if new:
            spec, params = self.initial()
            self._check_budget(params)
            if self.test is not None:
                one = self.test.take(np.arange(1))
                score(spec, settings.bits, params, one)
                if settings.arithmetic == "int8" or settings.teacher is not None:
                    self._try(spec, params, one)

    def _check_budget(self, params: Params) -> None:
        """SettingsError where not even an update of zeros would fit."""
        budget, codec = self.settings.budget, codec_by_name(self.settings.uplink_codec)
        metrics = {"loss": 0.5, "accuracy": 0.5, **longest(0)}
        least = clear_size(metrics, len(codec.encode(zeros_like(params)))) if budget else 0
        least += SEAL_BYTES - Clear.OVERHEAD if self.sealed and budget else 0
        if budget < least:
            raise hopeless(budget, least)

    def _try(self, spec: str, params: Params, one: "Dataset") -> None:
        """Train on one sample as clients will: what they would refuse is refused here."""
        from fedlite.local import train

        settings = TrainSettings(**self.settings.train_settings() | {"epochs": 1})
        teacher = open_teacher(self.settings.teacher)
        try:
            lesson = teacher.logits(one.x) if teacher is not None else None
            train(module_of(spec, settings.bits), params, one.x, one.y, settings, seed=0, teacher=lesson)
        except UpdateError as error:
            raise SettingsError(f"{self.settings.teacher} cannot teach: {error}") from error

    def initial(self) -> tuple[str, Params]:
        """(spec, first parameters) from the run's seed."""
        return self.first

    def score(self, params: Params) -> Mapping[str, float]:
        """Loss and accuracy, or nothing where there are no test data."""
        if self.test is None:
            return {}
        return score(self.spec, self.settings.bits, params, self.test, self.evaluate)

    def write(self, folder: Path, model: Model) -> Mapping[str, object]:
        """The model files and summary.json, which says what they are worth; nothing before the first round."""
        if model.round_num == 0:
            return {}
        try:
            summary = write(folder, model.spec, self.settings.bits, model.params, model.masks, self.test)
        except (OSError, SafetensorError) as error:
            raise StorageError(f"cannot write the model to {folder}: {error}") from error
        write_whole(folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        return summary


def open_ledger(workshop: Workshop, path: Path, folder: Path, **more: object) -> Ledger:
    """The run's ledger, made once its settings are known to work; `more` belongs to its identity.

    StateError when it is of another run, or when `folder` holds the results of rounds that it has lost.
    """
    new = not path.exists()
    if new and (folder / ROWS_FILE).exists():
        raise StateError(
            f"{folder} holds the results of a run whose {path} is missing",
            remedy="restore it from a backup; to begin anew, move the results away",
        )
    workshop.check(new=new)
    return Ledger.open(path, workshop.settings.identity() | more)


def make_job(
    workshop: Workshop,
    receiver: Receiver,
    sign: Callable[[bytes], bytes],
    who: Callable[[int], Party],
    *,
    patient: bool = False,
    shut_out: Callable[[], Collection[int]] = frozenset,
) -> Job:
    """The job these settings describe."""
    settings = workshop.settings
    evaluate = workshop.score if settings.dataset else None
    return Job(
        settings,
        workshop.initial,
        workshop.rule,
        evaluate,
        receiver,
        sign,
        who,
        patient,
        shut_out,
        workshop.teacher,
        workshop.origin,
    )


def unsigned(text: bytes) -> bytes:
    """No signature: the simulator and Flower's own runtime have no fedlite keys."""
    return b""


def unverified(text: bytes, signature: bytes) -> None:
    """Accept any offer: the transport is trusted."""


def node(node_id: int) -> Party:
    """A node that is known by its number alone."""
    return Party(str(node_id), str(node_id))
