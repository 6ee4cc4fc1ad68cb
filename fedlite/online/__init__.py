"""Learning while data arrive: a bounded reservoir on disk, watchers for new samples, prequential accuracy."""

from fedlite.online.prequential import Prequential
from fedlite.online.reservoir import Reservoir
from fedlite.online.stdin import StdinSource
from fedlite.online.watch import Arrival, Watcher

__all__ = ["Arrival", "Prequential", "Reservoir", "StdinSource", "Watcher"]
