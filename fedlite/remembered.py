"""Figures that this machine was measured for once: kept in a file named by all that they depend on."""

import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_log = logging.getLogger("fedlite.remembered")


def place(folder: Path, kind: str, depends: Sequence[Any]) -> Path:
    """Where they are kept; `depends` is made of what JSON knows."""
    key = json.dumps(depends, sort_keys=True)
    return folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def read(file: Path | None, names: Sequence[str]) -> dict[str, float] | None:
    """Those of these names, all above 0 (infinity is one); None when nothing is kept, or what is there is damaged."""
    try:
        stored = json.loads(file.read_bytes()) if file else {}
        found = {name: float(stored[name]) for name in names}
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return found if all(value > 0 and not math.isnan(value) for value in found.values()) else None


def write(file: Path | None, figures: Mapping[str, float]) -> None:
    """Keep them, if that can be; else they are measured again next time."""
    if file is None:
        return
    try:
        unfinished = file.with_suffix(f".{os.getpid()}.tmp")
        unfinished.write_text(json.dumps(dict(figures)))
        os.replace(unfinished, file)
    except OSError as error:
        _log.debug("%s is not kept: %s", file.name, error)


def processor() -> str:
    """What it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())
