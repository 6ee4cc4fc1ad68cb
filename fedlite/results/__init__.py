"""A run's folder (config.json, metrics.jsonl, report.html) and its live table. Needs no torch."""

from fedlite.results.folder import RunFolder
from fedlite.results.live import LiveTable, live

__all__ = ["LiveTable", "RunFolder", "live"]
