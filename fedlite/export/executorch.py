"""ExecuTorch: the int8 program for its XNNPACK delegate, and running it. int8 activations and weights, ARM and x86."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.export.files import write_aside
from fedlite.export.runtimes import Run

if TYPE_CHECKING:
    from fedlite.compress.integer import IntegerModel


def write(model: "IntegerModel", path: Path, calibration: NDArray[Any]) -> None:
    """Write `path`, whole or not at all, for one example at a time; raises as `program`."""
    content = program(model, calibration)
    write_aside(path, lambda place: place.write_bytes(content))


def program(model: "IntegerModel", calibration: NDArray[Any]) -> bytes:
    """The .pte file. SettingsError for an operator it does not have, named; else as `pt2e.quantized`."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # type: ignore[import-not-found]
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (  # type: ignore[import-not-found]
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower  # type: ignore[import-not-found]

    from fedlite.export.pt2e import exported, quantized

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    graph = quantized(model, calibration, quantizer)
    whole = exported(graph, torch.from_numpy(np.array(calibration[:1])))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lowered = to_edge_transform_and_lower(whole, partitioner=[XnnpackPartitioner()])
            return bytes(lowered.to_executorch().buffer)
    except Exception as error:  # its errors share no base class
        text = " ".join(str(error).split())[:300]
        raise SettingsError(
            f"ExecuTorch cannot hold this model: {text}", remedy="--runtime onnxruntime"
        ) from error


def open(path: Path, threads: int = 1) -> Run:
    """The file as a function of examples, answered one by one. SettingsError for a file that is none."""
    import torch
    from executorch.extension.pybindings import _portable_lib  # type: ignore[import-not-found]

    _portable_lib._unsafe_reset_threadpool(threads)
    try:
        module = _portable_lib._load_for_executorch(str(path))
        shape = tuple(module.method_meta("forward").input_tensor_meta(0).sizes())
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise SettingsError(f"{path} is no program that ExecuTorch can run: {text}") from error

    def run(x: NDArray[Any]) -> NDArray[np.float32]:
        if tuple(x.shape[1:]) != shape[1:]:
            raise SettingsError(
                f"the file takes examples of shape {list(shape[1:])}, not {list(x.shape[1:])}"
            )
        answers = [module.forward((torch.from_numpy(np.array(each[None])),))[0].numpy().copy() for each in x]
        return np.concatenate(answers)

    return run
