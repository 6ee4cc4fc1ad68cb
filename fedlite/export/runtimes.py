"""The runtimes a model can be exported to, by name: what each needs, and its two functions.

A runtime is a module with `write` and `open`. Another one is a file beside this one and a row of KNOWN. One whose
packages do not fit beside fedlite's has an environment of its own: there its files are run, and `write` may start
its converter there.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.types import Array

if TYPE_CHECKING:
    from fedlite.compress.integer import IntegerModel

ENVIRONMENTS = Path(
    ".environments"
)  # where those of other runtimes are, unless $FEDLITE_ENVIRONMENTS says where

Run = Callable[[NDArray[Any]], Array]  # examples (n, *input shape) → logits float32 (n, num_classes)


class Runtime(Protocol):
    """What fedlite/export/<runtime>.py holds. It is imported without the runtime's packages too."""

    def write(self, model: "IntegerModel", path: Path, calibration: NDArray[Any]) -> None:
        """Write the runtime's file of a model; no file if it fails.

        `calibration` are real examples (n ≥ 1, *input shape): their shape and dtype are the input's, and a
        runtime that finds its own ranges finds them there. SettingsError for an operator it does not have, named.
        """

    def open(self, path: Path, threads: int = 1) -> Run:
        """The file as a function, computing with so many threads. SettingsError for a file that is none."""


@dataclass(frozen=True)
class Entry:
    """A runtime before it is loaded."""

    module: str
    suffix: str  # of its file
    computes: str  # what its file computes with, for people
    needs: tuple[str, ...]  # the packages that run a file
    remedy: str  # how they are installed
    environment: str = ""  # the folder of its own environment under ENVIRONMENTS; "" is this one


KNOWN: dict[str, Entry] = {
    "onnxruntime": Entry(
        "fedlite.export.onnxruntime",
        ".onnx",
        "int8 (U8S8)",
        ("onnxruntime", "onnx"),
        "pip install fedlite[export]",
    ),
    "executorch": Entry(
        "fedlite.export.executorch",
        ".pte",
        "int8, by XNNPACK",
        ("executorch", "torchao"),
        "scripts/test_runtimes executorch makes .venv-executorch; then "
        ".venv-executorch/bin/python -m fedlite.export …",
    ),
    "litert": Entry(
        "fedlite.export.litert",
        ".tflite",
        "int8, by XNNPACK",
        ("litert_torch", "ai_edge_litert"),
        "scripts/test_runtimes litert makes .venv-litert; then .venv-litert/bin/python -m fedlite.export …",
    ),
    "ncnn": Entry(
        "fedlite.export.ncnn",
        ".ncnn.zip",
        "float16 weights, no int8",
        ("ncnn", "pnnx"),
        "scripts/test_runtimes ncnn makes .venv-ncnn; then .venv-ncnn/bin/python -m fedlite.export …",
    ),
}


def entry_of(name: str) -> Entry:
    """What is known of a runtime. SettingsError, with the names there are, for another."""
    if name not in KNOWN:
        raise SettingsError(f"unknown runtime {name!r}; there are {', '.join(KNOWN)}")
    return KNOWN[name]


def load(name: str) -> Runtime:
    """A runtime's two functions. SettingsError for an unknown name."""
    return cast(Runtime, importlib.import_module(entry_of(name).module))


def python_of(name: str) -> str:
    """The interpreter that has the runtime's packages.

    SettingsError, which says how to install them, where they are not there.
    """
    entry = entry_of(name)
    if entry.environment:
        place = Path(os.environ.get("FEDLITE_ENVIRONMENTS", ENVIRONMENTS)) / entry.environment
        if not (place / "bin" / "python").exists():
            raise SettingsError(f"runtime {name!r} has no environment at {place}", remedy=entry.remedy)
        return str(place / "bin" / "python")
    missing = [each for each in entry.needs if importlib.util.find_spec(each) is None]
    if missing:
        raise SettingsError(
            f"runtime {name!r} needs {' and '.join(missing)}, not installed", remedy=entry.remedy
        )
    return sys.executable
