"""An exported `.onnx` file as something to profile: its model's spec, its integers, and running it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.models.registry import ModelSpec
from fedlite.profile.examples import Example

WHOLE = "give the file as python -m fedlite.export wrote it, whole"


def read(path: Path) -> tuple[ModelSpec, dict[str, NDArray[Any]]]:
    """The spec and the tensors by name. SettingsError for a file that is missing, damaged or not ours."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise SettingsError(
            "reading ONNX needs the package onnx", remedy="pip install fedlite[export]"
        ) from error
    try:
        content = onnx.load(str(path), load_external_data=False)
        tensors = {each.name: numpy_helper.to_array(each) for each in content.graph.initializer}
    except Exception as error:  # its errors share no base class
        raise SettingsError(f"cannot read {path} as ONNX: {str(error)[:200]}", remedy=WHOLE) from error
    known = {each.key: each.value for each in content.metadata_props}
    if "fedlite" not in known:
        raise SettingsError(f"{path} does not say which model it holds", remedy=WHOLE)
    return ModelSpec.from_json(known["fedlite"]), tensors


def runner(path: Path, example: Example, batch: int, threads: int) -> Callable[[], object]:
    """A call that runs a batch through the file by ONNX Runtime. SettingsError for a file that it cannot run."""
    from fedlite.export import onnxruntime

    run, x = onnxruntime.open(path, threads), example.batch(batch)
    return lambda: run(x)
