"""ncnn: the network with weights in fp16, and running it; its Python packages have no int8 tools.

A file is a zip of model.param, the layers as text, and model.bin, the weights: the two files that ncnn loads.
"""

import subprocess
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError, SettingsError
from fedlite.export.files import write_aside
from fedlite.export.runtimes import Run

if TYPE_CHECKING:
    from fedlite.compress.integer import IntegerModel

_PARTS = ("model.param", "model.bin")
_MAGIC = "7767517"  # the first line of every .param
_TIMEOUT_SECONDS = 600
_MOST_BYTES = 1 << 30  # of a part


def write(model: "IntegerModel", path: Path, calibration: NDArray[Any]) -> None:
    """Write `path`, whole or not at all, for one example at a time; raises as `parts`."""
    found = parts(model, calibration)

    def zipped(place: Path) -> None:
        with zipfile.ZipFile(place, "w") as file:
            for name, content in zip(_PARTS, found, strict=True):
                file.writestr(zipfile.ZipInfo(name), content)

    write_aside(path, zipped)


def parts(model: "IntegerModel", calibration: NDArray[Any]) -> tuple[bytes, bytes]:
    """(.param, .bin) of the rounded weights; activations are not rounded.

    SettingsError for an operator ncnn does not have, named; DataError where the model takes no such examples.
    """
    import pnnx  # type: ignore[import-not-found]
    import torch

    from fedlite.export.onnx_file import float_module

    example = torch.from_numpy(np.array(calibration[:1]))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
                float_module(model), example, check_trace=False
            )
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"the model takes no examples of shape {calibration.shape[1:]}") from error
    kind = {"float32": "f32", "int64": "i64"}[str(calibration.dtype)]
    shape = ",".join(str(size) for size in example.shape)
    with TemporaryDirectory() as folder:
        traced.save(f"{folder}/model.pt")
        command = [pnnx.EXEC_PATH, "model.pt", f"inputshape=[{shape}]{kind}", "fp16=1"]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS
        )
        made = [Path(folder) / f"model.ncnn.{end}" for end in ("param", "bin")]
        if done.returncode or not all(each.exists() for each in made):
            text = " ".join(done.stderr.split())[-300:]
            raise SettingsError(f"pnnx cannot convert this model: {text}", remedy="--runtime onnxruntime")
        _check_layers(made[0].read_text("utf-8"))
        return made[0].read_bytes(), made[1].read_bytes()


def _check_layers(param: str) -> None:
    """SettingsError if a layer is still an operator of torch, which ncnn does not have."""
    kinds = {line.split()[0] for line in param.splitlines()[2:] if line.strip()}
    if odd := sorted(kind for kind in kinds if "." in kind or ":" in kind):
        raise SettingsError(f"ncnn has no operator {', '.join(odd)}", remedy="--runtime onnxruntime")


def open(path: Path, threads: int = 1) -> Run:
    """The file as a function of examples, answered one by one. SettingsError for a file that is none."""
    import ncnn  # type: ignore[import-not-found]

    net = ncnn.Net()
    net.opt.num_threads = threads
    with TemporaryDirectory() as folder:
        param, weights = _extract(path, Path(folder))
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise SettingsError(f"{path} is no network that ncnn can run")
    (entry,), (answer,) = net.input_names(), net.output_names()

    def run(x: NDArray[Any]) -> NDArray[np.float32]:
        answers = []
        for each in x:
            extractor = net.create_extractor()
            extractor.input(entry, ncnn.Mat(_four_bytes(each)).clone())
            failed, found = extractor.extract(answer)
            if failed:
                raise SettingsError(f"ncnn cannot answer an example of shape {each.shape} with {path}")
            answers.append(_without_batch(np.array(found, np.float32)))
        return np.stack(answers)

    return run


def _four_bytes(x: NDArray[Any]) -> NDArray[Any]:
    """Texts are int32 in ncnn."""
    return np.ascontiguousarray(x, np.int32 if x.dtype.kind in "iu" else np.float32)


def _without_batch(found: NDArray[np.float32]) -> NDArray[np.float32]:
    """Networks without convolutions keep the batch's dimension, of 1."""
    return found[0] if found.ndim > 1 and len(found) == 1 else found


def _extract(path: Path, folder: Path) -> list[Path]:
    try:
        with zipfile.ZipFile(path) as file:
            sizes = [file.getinfo(name).file_size for name in _PARTS]
            if max(sizes) > _MOST_BYTES:
                raise SettingsError(f"{path} holds a part of {max(sizes)} bytes, {_MOST_BYTES} at most")
            for name in _PARTS:
                (folder / name).write_bytes(file.read(name))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SettingsError(f"{path} is no zip of {' and '.join(_PARTS)}: {error}") from error
    if not (folder / _PARTS[0]).read_bytes().startswith(_MAGIC.encode()):
        raise SettingsError(f"{path} holds no .param of ncnn: it does not begin with {_MAGIC}")
    return [folder / name for name in _PARTS]
