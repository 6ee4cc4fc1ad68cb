"""ONNX Runtime: the int8 file, and running it. uint8 activations and int8 weights (U8S8), x86 and ARM alike."""

import platform
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.export.files import write_aside
from fedlite.export.runtimes import Run

if TYPE_CHECKING:
    from fedlite.compress.integer import IntegerModel

_EXACT = ("session.x64quantprecision", "1")  # unsigned weights: slower, and exact where U8S8 is not


def write(model: "IntegerModel", path: Path, calibration: NDArray[Any]) -> None:
    """Write `path`, whole or not at all. SettingsError as `onnx_file.onnx_bytes`, or where it cannot be written."""
    from fedlite.export.onnx_file import onnx_bytes

    content = onnx_bytes(model, calibration)
    write_aside(path, lambda place: place.write_bytes(content))


def open(path: Path, threads: int = 1) -> Run:
    """The file as a function of examples. SettingsError for a missing, truncated or altered file."""
    session = load(path, threads)
    (entry,), name = session.get_inputs(), session.get_outputs()[0].name
    dtype = np.int64 if "int64" in entry.type else np.float32

    def run(x: NDArray[Any]) -> NDArray[np.float32]:
        if tuple(x.shape[1:]) != tuple(entry.shape[1:]):
            raise SettingsError(
                f"the file takes examples of shape {entry.shape[1:]}, not {list(x.shape[1:])}"
            )
        (found,) = session.run([name], {entry.name: np.ascontiguousarray(x, dtype)})
        return np.asarray(found, np.float32)

    return run


def load(path: Path, threads: int = 1, optimized: Path | None = None) -> Any:
    """An InferenceSession; `optimized` is where ONNX Runtime writes the graph it really runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    if saturates(_processor()):
        options.add_session_config_entry(*_EXACT)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class
        text = " ".join(str(error).split())[:200]
        raise SettingsError(f"{path} is no ONNX file that ONNX Runtime can run: {text}") from error


def saturates(processor: str) -> bool:
    """Whether a processor adds pairs of U8S8 products in 16 bits, where large ones are cut: x86 without VNNI.

    `processor` is the text of Linux's /proc/cpuinfo.
    """
    return "avx2" in processor and "vnni" not in processor


def _processor() -> str:
    """This machine's /proc/cpuinfo; where there is none, the worst of its kind."""
    try:
        return Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return "avx2" if platform.machine().lower() in ("x86_64", "amd64") else ""


def kernels(path: Path) -> dict[str, int]:
    """How many of each operator ONNX Runtime runs for a file, after it has fused what it can on this machine."""
    import onnx

    with TemporaryDirectory() as folder:
        load(path, optimized=Path(folder) / "optimized.onnx")
        nodes = onnx.load(str(Path(folder) / "optimized.onnx")).graph.node
        return dict(sorted(Counter(node.op_type for node in nodes).items()))
