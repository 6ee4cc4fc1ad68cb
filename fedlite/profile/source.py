"""The model to profile, from one word: a family with options, or a file that fedlite wrote."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedlite.compress import quantize, stored
from fedlite.compress.integer import FORMAT as INT8_FORMAT
from fedlite.compress.integer import IntegerModel
from fedlite.errors import PeerError, SettingsError
from fedlite.models.bridge import initial_params, layout
from fedlite.models.registry import NAMES, ModelSpec, Option, skeleton
from fedlite.models.saved import load_model
from fedlite.models.words import spec_of_text
from fedlite.tensors import check_like

SUFFIXES = (".safetensors", ".fedlite", ".onnx")
WHOLE = "give the file as it was written, whole"
Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model: its spec, the bits it computes at, and its values by the network's own names.

    `values` are float32, but int8 and int32 for the layers of an integer model, for which `integer` is True.
    `file_bytes` is the size of the file they came from, None without one; `exported` is a file that ONNX Runtime
    runs, and then `values` hold what has a name of the network's own in it.
    """

    title: str
    spec: ModelSpec
    bits: int
    values: Values
    file_bytes: int | None = None
    integer: bool = False
    exported: Path | None = None


def open_subject(text: str, input_shape: tuple[int, ...] = ()) -> Subject:
    """The model that `cnn`, `mobilenet_v2:width=0.5,norm=batch` or `run/model.safetensors` names.

    A family has the weights of seed 0. `input_shape`, if given, becomes the family's option of that name where it
    has one. Files: model.safetensors, model.int8.safetensors, Deep Compression's .fedlite, an exported .onnx.
    SettingsError for an unknown family or option, and for a file that is missing, damaged or not ours.
    """
    name = text.partition(":")[0]
    if name in NAMES:
        defaults: dict[str, Option] = {"input_shape": input_shape} if input_shape else {}
        return from_spec(text, spec_of_text(text, defaults))
    path = Path(text)
    if path.suffix not in SUFFIXES:
        raise SettingsError(
            f"{text!r} is no model: neither a family ({', '.join(NAMES)}) nor a {' or '.join(SUFFIXES)} file",
            remedy="write cnn, mobilenet_v2:width=0.5,num_classes=10, or the path of a model.safetensors",
        )
    return _from_file(path)


def from_spec(title: str, spec: ModelSpec) -> Subject:
    """A model with the weights of seed 0."""
    return Subject(title, spec, 32, initial_params(skeleton(spec), 0))


def _from_file(path: Path) -> Subject:
    try:
        size = path.stat().st_size
        if path.suffix == ".fedlite":
            return _stored(path, size)
        if path.suffix == ".onnx":
            return _exported(path, size)
        if _is_integer(path):
            return _integer(path, size)
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"cannot read {path} as {path.suffix}: {error}", remedy=WHOLE) from error
    saved = load_model(path)
    wanted = layout(quantize.at(skeleton(saved.spec), saved.bits))
    if odd := sorted(set(wanted) ^ set(saved.params)):
        raise SettingsError(f"{path} is not a model at {saved.bits} bits: {odd[:3]} are missing or too much")
    return Subject(str(path), saved.spec, saved.bits, {name: saved.params[name] for name in wanted}, size)


def _is_integer(path: Path) -> bool:
    """Whether the file says it holds whole numbers already."""
    with safe_open(path, framework="numpy") as file:
        return list(file.metadata() or {}) == [INT8_FORMAT]


def _integer(path: Path, size: int) -> Subject:
    model = IntegerModel.load(path)
    values = {name: model.tensors[name] for name in layout(skeleton(model.spec))}
    return Subject(str(path), model.spec, 8, values, size, integer=True)


def _stored(path: Path, size: int) -> Subject:
    """A `.fedlite` file, as Deep Compression leaves it."""
    try:
        text, params = stored.load(path)
        spec = ModelSpec.from_json(text)
        wanted = layout(skeleton(spec))
        check_like({name: params[name] for name in wanted if name in params}, wanted, str(path))
    except PeerError as error:
        raise SettingsError(str(error.args[0]), remedy=WHOLE) from error
    return Subject(str(path), spec, 32, {name: params[name] for name in wanted}, size)


def _exported(path: Path, size: int) -> Subject:
    from fedlite.profile import onnx_source

    spec, tensors = onnx_source.read(path)
    values = {name: tensors[name] for name in layout(skeleton(spec)) if name in tensors}
    return Subject(str(path), spec, 8, values, size, integer=True, exported=path)
