"""A job from its settings: what the server and the simulator share."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedlite.apps.cohort import Party
from fedlite.apps.model import choose, initial, open_test, score, write
from fedlite.apps.server import Job
from fedlite.apps.settings import JobSettings
from fedlite.rounds import Model
from fedlite.seeds import derive
from fedlite.types import Params
from fedlite.uplink import Receiver

if TYPE_CHECKING:
    from fedlite.data.base import Dataset


@dataclass(frozen=True)
class Workshop:
    """Makes the first model, tests every next one, and writes out the last. Test data are opened when needed."""

    settings: JobSettings

    @cached_property
    def test(self) -> "Dataset | None":
        """The test data, or None where there are none."""
        return open_test(self.settings)

    @cached_property
    def spec(self) -> str:
        """The ModelSpec as JSON."""
        return choose(self.settings, self.test)

    def initial(self) -> tuple[str, Params]:
        """(spec, first parameters) from the run's seed."""
        return self.spec, initial(self.spec, self.settings.bits, derive(self.settings.seed, "model"))

    def score(self, params: Params) -> Mapping[str, float]:
        """Loss and accuracy, or nothing where there are no test data."""
        return score(self.spec, self.settings.bits, params, self.test) if self.test is not None else {}

    def write(self, folder: Path, model: Model) -> Mapping[str, object]:
        """The model files and summary.json, which says what they are worth; nothing before the first round."""
        if model.round_num == 0:
            return {}
        summary = write(folder, model.spec, self.settings.bits, model.params, model.held.masks, self.test)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return summary


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
    return Job(settings, workshop.initial, evaluate, receiver, sign, who, patient, shut_out)


def unsigned(text: bytes) -> bytes:
    """No signature: the simulator and Flower's own runtime have no fedlite keys."""
    return b""


def unverified(text: bytes, signature: bytes) -> None:
    """Accept any offer: the transport is trusted."""


def node(node_id: int) -> Party:
    """A node that is known by its number alone."""
    return Party(str(node_id), str(node_id))
