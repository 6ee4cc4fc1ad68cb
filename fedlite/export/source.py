"""The integer model to export, from a file that fedlite wrote; and the examples to check it with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedlite.calibrate import quantize_static
from fedlite.compress.integer import FORMAT as INTEGER_FORMAT
from fedlite.compress.integer import IntegerModel, to_integer
from fedlite.data.spec import open_data
from fedlite.errors import DataError, SettingsError
from fedlite.export.config import Config
from fedlite.models.fold import fold_norms
from fedlite.models.registry import ModelSpec, build
from fedlite.models.saved import load_model
from fedlite.types import Params


@dataclass(frozen=True, eq=False)
class Examples:
    """What the file is checked with, (n, *input shape) and labels if there are any; and what calibrates."""

    x: NDArray[Any]
    y: NDArray[Any] | None
    calibration: NDArray[Any]


def open_examples(config: Config) -> Examples:
    """Held-out and calibration examples. DataError for data that are none.

    Of a data set these are its test and its training split, of an .npy the second half and the first.
    """
    if config.data.endswith(".npy"):
        x = _array(Path(config.data))
        half = len(x) // 2
        return Examples(x[half : half + config.samples], None, x[:half][: config.calibration])
    test, train = (
        open_data(config.data, split=split, data_dir=config.data_dir) for split in ("test", "train")
    )
    places = np.linspace(0, len(train) - 1, min(config.calibration, len(train))).astype(np.int64)
    return Examples(test.x[: config.samples], test.y[: config.samples], train.x[places])


def _array(path: Path) -> NDArray[Any]:
    try:
        x = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path} as .npy: {error}") from error
    if not isinstance(x, np.ndarray) or x.ndim < 2 or len(x) < 2 or x.dtype.kind not in "fiu":
        raise DataError(f"{path} holds no array of two or more examples of numbers")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError(f"{path} holds NaN or infinity")
    return x.astype(np.float32) if x.dtype.kind == "f" else x.astype(np.int64)


def open_model(path: Path, calibration: NDArray[Any], observer: str) -> IntegerModel:
    """The integer model of a model.safetensors or model.int8.safetensors.

    BatchNorm is folded. A float32 model gets its ranges from `calibration` by `observer` (see
    fedlite.calibrate). SettingsError for a file that is missing, damaged, or not one of these.
    """
    if _is_integer(path):
        return IntegerModel.load(path)
    saved = load_model(path)
    spec, params = fold_norms(saved.spec, saved.params)
    if saved.bits == 8:
        return integer_of(spec, params)
    if saved.bits != 32:
        raise SettingsError(
            f"{path} was trained for {saved.bits} bits, and runtimes compute with 8",
            remedy="train with --bits 8",
        )
    return integer_of(spec, quantize_static(spec, params, calibration, observer=observer))


def integer_of(spec: ModelSpec, params: Params) -> IntegerModel:
    """The integer model of a spec and its int8-aware params; raises as `to_integer`."""
    return to_integer(build(spec), params)


def _is_integer(path: Path) -> bool:
    """Whether the file says it holds whole numbers already."""
    try:
        with safe_open(path, framework="numpy") as file:
            return list(file.metadata() or {}) == [INTEGER_FORMAT]
    except (OSError, SafetensorError) as error:
        raise SettingsError(
            f"cannot read {path} as safetensors: {error}", remedy="give the file as it was written, whole"
        ) from error
