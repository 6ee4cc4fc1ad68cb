"""LiteRT (TensorFlow Lite): the int8 flatbuffer, and running it. int8 activations and weights, by XNNPACK on CPUs."""

import contextlib
import io
import os
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
    """Write `path`, whole or not at all, for one example at a time; raises as `converted`."""
    found = converted(model, calibration)

    def export(place: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # the converter says how far it is
            found.export(str(place))

    write_aside(path, export)


def converted(model: "IntegerModel", calibration: NDArray[Any]) -> Any:
    """litert_torch's model. SettingsError for an operator it does not have, named; else as `pt2e.quantized`."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the converter computes with JAX
    import litert_torch  # type: ignore[import-not-found]
    import torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config  # type: ignore[import-not-found]
    from litert_torch.quantize.quant_config import QuantConfig  # type: ignore[import-not-found]

    from fedlite.export.pt2e import quantized

    scheme = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    quantizer = PT2EQuantizer().set_global(scheme)
    graph = quantized(model, calibration, quantizer, int8_weights=False)
    example = torch.from_numpy(np.array(calibration[:1]))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return litert_torch.convert(graph, (example,), quant_config=QuantConfig(pt2e_quantizer=quantizer))
    except Exception as error:  # its errors share no base class
        text = " ".join(str(error).split())[:300]
        raise SettingsError(
            f"LiteRT cannot hold this model: {text}", remedy="--runtime onnxruntime"
        ) from error


def open(path: Path, threads: int = 1) -> Run:
    """The file as a function of examples, answered one by one. SettingsError for a file that is none."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        raise SettingsError(f"{path} is no flatbuffer that LiteRT can run: {text}") from error
    (entry,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    shape = tuple(int(size) for size in entry["shape"][1:])

    def run(x: NDArray[Any]) -> NDArray[np.float32]:
        if tuple(x.shape[1:]) != shape:
            raise SettingsError(f"the file takes examples of shape {list(shape)}, not {list(x.shape[1:])}")
        answers = []
        for each in x:
            interpreter.set_tensor(entry["index"], _to_file(each[None], entry))
            interpreter.invoke()
            answers.append(_from_file(interpreter.get_tensor(answer["index"]), answer))
        return np.concatenate(answers)

    return run


def _to_file(x: NDArray[Any], detail: Any) -> NDArray[Any]:
    """Numbers as the file's input holds them: on its grid where that is int8."""
    if detail["dtype"] is not np.int8:
        return np.asarray(x, detail["dtype"])
    scale, zero_point = detail["quantization"]
    steps: NDArray[np.float32] = np.rint(x / np.float32(scale)) + zero_point
    return steps.clip(-128, 127).astype(np.int8)


def _from_file(found: NDArray[Any], detail: Any) -> NDArray[np.float32]:
    """The file's output as float32."""
    if detail["dtype"] is not np.int8:
        return np.asarray(found, np.float32)
    scale, zero_point = detail["quantization"]
    steps: NDArray[np.float32] = found.astype(np.float32) - np.float32(zero_point)
    return steps * np.float32(scale)
