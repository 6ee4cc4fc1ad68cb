"""Where a device's samples come from: a data set of its own, or whatever arrives."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.config import Config
from fedlite.apps.device import Drawn, Fixed, Predict, Source
from fedlite.config import parse_shape
from fedlite.crypto.files import write_private
from fedlite.data.own import load_samples, parse_line
from fedlite.data.spec import describe, open_data
from fedlite.errors import DataError, StateError
from fedlite.online.prequential import Prequential
from fedlite.online.reservoir import Reservoir
from fedlite.online.stdin import StdinSource
from fedlite.online.watch import Watcher

Batch = tuple[NDArray[Any], NDArray[np.int64]]
Poll = Callable[[], Sequence[Batch]]
Done = Callable[[], None]

_log = logging.getLogger("fedlite.client")

RESERVOIR_FILE, PREQUENTIAL_FILE = "reservoir.db", "prequential.json"


def open_source(config: Config) -> Source:
    """The source the settings name. DataError when it is missing or empty."""
    if config.data:
        data = open_data(config.data, partition=config.partition, seed=config.seed, data_dir=config.data_dir)
        if not len(data):
            raise DataError(f"{config.data} holds no samples")
        print(describe(data), flush=True)
        return Fixed(data.x, data.y)
    shape, classes = parse_shape(config.input_shape), config.num_classes
    reservoir = Reservoir(config.state_dir / RESERVOIR_FILE, config.reservoir, shape, classes, config.seed)
    poll, done = _watched(config.watch, shape, classes) if config.watch else _typed(shape, classes)
    return Arriving(poll, done, reservoir, config.state_dir / PREQUENTIAL_FILE)


@dataclass(frozen=True)
class Arriving:
    """Samples as they arrive: tested first, then kept in the reservoir, which is what the device trains on.

    `poll` returns new batches and `done` says that they are safe; `record` is the file of the accuracy so far.
    """

    poll: Poll
    done: Done
    reservoir: Reservoir
    record: Path

    def draw(self, predict: Predict) -> Drawn:
        """What the reservoir holds now, and the accuracy on all samples before they were learned."""
        tested = _read(self.record)
        for x, y in self.poll():
            tested = tested.observe(predict(x), y)
            self.reservoir.add(x, y)
        write_private(self.record, json.dumps(tested.to_json()).encode(), replace=True)
        self.done()
        x, y = self.reservoir.all()
        metrics = {"prequential": tested.accuracy} if tested.accuracy is not None else {}
        return Drawn(x, y, metrics)


def _read(record: Path) -> Prequential:
    """The accuracy so far; StateError if its file is damaged."""
    if not record.exists():
        return Prequential()
    try:
        return Prequential.from_json(json.loads(record.read_text("utf-8")))
    except (ValueError, TypeError, AttributeError, StateError) as error:
        raise StateError(
            f"{record} is damaged: {error}", remedy="remove it: the count begins anew"
        ) from error


def _watched(folder: Path, shape: tuple[int, ...], classes: int) -> tuple[Poll, Done]:
    watcher = Watcher(folder, lambda path: load_samples(path, shape, classes))
    known = set(watcher.rejected)

    def poll() -> list[Batch]:
        batches = [(arrival.x, arrival.y) for arrival in watcher.poll()]
        for name in sorted(watcher.rejected.keys() - known):
            _log.warning("%s is not used: %s", name, watcher.rejected[name])
        known.update(watcher.rejected)
        return batches

    return poll, watcher.done


def _typed(shape: tuple[int, ...], classes: int) -> tuple[Poll, Done]:
    lines = StdinSource(lambda line: parse_line(line, shape, classes))

    def poll() -> list[Batch]:
        before, batches = lines.num_rejected, lines.poll()
        if lines.num_rejected > before:
            _log.warning(
                "%d lines are not used; the last: %s", lines.num_rejected - before, lines.last_rejected
            )
        return batches

    return poll, lambda: None
