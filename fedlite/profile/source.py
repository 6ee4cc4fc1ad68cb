"""The model to profile, from one word: a family with options, or a file that fedlite wrote."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedlite.compress import quantize
from fedlite.compress.integer import FORMAT as INT8_FORMAT
from fedlite.compress.integer import IntegerModel
from fedlite.errors import SettingsError
from fedlite.models.bridge import initial_params, layout
from fedlite.models.registry import NAMES, ModelSpec, Option, resolve, skeleton

SUFFIXES = (".safetensors",)
Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model: its spec, the bits it computes at, and its values by the network's own names.

    `values` are float32, but int8 and int32 for the layers of an integer model, for which `integer` is True.
    `file_bytes` is the size of the file they came from, None without one.
    """

    title: str
    spec: ModelSpec
    bits: int
    values: Values
    file_bytes: int | None = None
    integer: bool = False


def open_subject(text: str, input_shape: tuple[int, ...] = ()) -> Subject:
    """The model that `cnn`, `mobilenet_v2:width=0.5,norm=batch` or `run/model.safetensors` names.

    A family has the weights of seed 0. `input_shape`, if given, becomes the family's option of that name where it
    has one. SettingsError for an unknown family or option, and for a file that is missing, damaged or not ours.
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


def spec_of_text(text: str, defaults: Mapping[str, Option]) -> ModelSpec:
    """`mobilenet_v2:width=0.5,input_shape=3x96x96` as a spec; of `defaults`, the options that the family has.

    SettingsError for an unknown name, option or value.
    """
    name, _, rest = text.partition(":")
    known = dict(resolve(name, {}).options)
    options: dict[str, Option] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not equals or key not in known:
            raise SettingsError(f"{part!r} is no option of {name!r}; it has {', '.join(known)}, as key=value")
        options[key] = _value(f"{name}.{key}", value, known[key])
    spec = resolve(name, {key: value for key, value in defaults.items() if key in known} | options)
    skeleton(spec)  # says now what does not fit
    return spec


def parse_shape(text: str) -> tuple[int, ...]:
    """`3x224x224` → (3, 224, 224). SettingsError for anything else."""
    parts = text.split("x")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 2**20 for part in parts):
        raise SettingsError(f"{text!r} is no shape; write it as 3x224x224")
    return tuple(map(int, parts))


def _value(what: str, text: str, default: Option) -> Option:
    """A word of the command line as its option's type; `resolve` checks its range."""
    if isinstance(default, str):
        return text
    if isinstance(default, tuple):
        return parse_shape(text)
    try:
        return type(default)(text)
    except ValueError as error:
        raise SettingsError(f"{what} is {text!r}; a number as {default} is wanted") from error


def _from_file(path: Path) -> Subject:
    try:
        size = path.stat().st_size
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if list(metadata) == ["fedlite"]:
                spec, bits = _header(path, metadata["fedlite"])
                return Subject(str(path), spec, bits, _tensors(path, file, spec, bits), size)
    except (OSError, SafetensorError) as error:
        raise SettingsError(
            f"cannot read {path} as safetensors: {error}", remedy="give the file as it was written, whole"
        ) from error
    if list(metadata) != [INT8_FORMAT]:
        raise SettingsError(
            f"{path} does not say which model it holds; its metadata are {str(metadata)[:200]}",
            remedy="give a model.safetensors or model.int8.safetensors that fedlite wrote",
        )
    model = IntegerModel.load(path)
    values = {name: model.tensors[name] for name in layout(skeleton(model.spec)) if name in model.tensors}
    return Subject(str(path), model.spec, 8, values, size, integer=True)


def _header(path: Path, text: str) -> tuple[ModelSpec, int]:
    try:
        raw = json.loads(text)
        spec, bits = json.dumps(raw["model"]), raw["bits"]
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"{path}: {text[:80]!r} is not a model's spec and bits") from error
    if bits not in (8, 32):
        raise SettingsError(f"{path} says its bits are {str(bits)[:20]}; 8 or 32 wanted")
    return ModelSpec.from_json(spec), bits


def _tensors(path: Path, file: Any, spec: ModelSpec, bits: int) -> Values:
    """The file's tensors, in the network's order; shapes are compared before memory is taken."""
    wanted = layout(quantize.at(skeleton(spec), bits))
    if odd := sorted(set(file.keys()) ^ set(wanted)):
        raise SettingsError(f"{path} does not hold the tensors of its model: {odd[:3]}")
    for name, like in wanted.items():
        part = file.get_slice(name)
        if tuple(part.get_shape()) != like.shape or part.get_dtype() != "F32":
            raise SettingsError(
                f"{path}: {name!r} is {part.get_dtype()} {part.get_shape()}; F32 {list(like.shape)} wanted"
            )
    values = {name: file.get_tensor(name) for name in wanted}
    if odd := [name for name, value in values.items() if not np.isfinite(value).all()]:
        raise SettingsError(f"{path}: {odd[0]!r} holds NaN or infinity")
    return values
