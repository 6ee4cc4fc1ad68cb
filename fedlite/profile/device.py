"""This device in words, and as a key under which its measurements are kept."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

Description = Mapping[str, str | int | None]


def describe(root: Path = Path("/")) -> Description:
    """Machine, processor, board, cores and software: what a latency depends on."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "board": _board(root),
        "processor": _processor(root),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def key_of(description: Description) -> str:
    """Sixteen hexadecimal digits that differ between devices whose measurements do not compare."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def _board(root: Path) -> str | None:
    """A single-board computer's name, from its device tree."""
    try:
        return (root / "proc/device-tree/model").read_text("utf-8", "replace").strip("\0\n ") or None
    except OSError:
        return None


def _processor(root: Path) -> str:
    try:
        lines = (root / "proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    parts = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
    return parts[0] if parts else platform.processor()
