"""A model's file, model.safetensors: the parameters by name, and the spec that rebuilds the network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedlite.errors import SettingsError, UpdateError
from fedlite.models.bridge import layout
from fedlite.models.registry import ModelSpec, skeleton
from fedlite.tensors import check_finite, check_like
from fedlite.types import Array, Params

KEY = "fedlite"  # one entry of metadata: safetensors writes several in an order that varies
RANGE = ".act_range"  # of int8-aware models: beside the network's own tensors


@dataclass(frozen=True, eq=False)
class Saved:
    """A network's spec, the bits it computes at, and its parameters; below 32 bits with activation ranges."""

    spec: ModelSpec
    bits: int
    params: Params


def save_model(path: Path, spec: str, bits: int, params: Params) -> None:
    """Write the file; `spec` is a ModelSpec's JSON. The same model is the same bytes."""
    arrays = {name: np.ascontiguousarray(value) for name, value in params.items()}
    made = json.dumps({"bits": bits, "model": json.loads(spec)}, sort_keys=True)
    save_file(arrays, path, metadata={KEY: made})


def load_model(path: Path) -> Saved:
    """What `save_model` wrote, in the network's own order.

    SettingsError for a file that is missing, cut, of another format, of an unknown model, or that holds NaN.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            head = json.loads(metadata[KEY])
            spec, bits = ModelSpec.from_json(json.dumps(head["model"])), int(head["bits"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"cannot read {path} as safetensors: {error}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise SettingsError(
            f"{path} does not say which model it holds: it is not one of fedlite's"
        ) from error
    return Saved(spec, bits, _ordered(path, spec, arrays))


def _ordered(path: Path, spec: ModelSpec, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The network's tensors as its layout has them, each layer's range after its last; all checked."""
    shapes = layout(skeleton(spec))
    ranges = {name: value for name, value in arrays.items() if name.endswith(RANGE)}
    try:
        check_like({name: arrays[name] for name in shapes if name in arrays}, shapes, str(path))
        check_finite(arrays, str(path))
    except UpdateError as error:
        raise SettingsError(f"{path} does not hold the model it names: {error}") from error
    layers = {name.rpartition(".")[0] for name in shapes}
    odd = sorted(set(arrays) - set(shapes) - {f"{layer}{RANGE}" for layer in layers})
    if odd or any(value.shape != (2,) for value in ranges.values()):
        raise SettingsError(f"{path} holds tensors that are not the model's: {(odd or sorted(ranges))[:3]}")
    ordered: dict[str, Array] = {}
    names = list(shapes)
    for name, following in zip(names, [*names[1:], ""], strict=True):
        ordered[name] = arrays[name]
        layer = name.rpartition(".")[0]
        if f"{layer}{RANGE}" in ranges and following.rpartition(".")[0] != layer:
            ordered[f"{layer}{RANGE}"] = ranges[f"{layer}{RANGE}"]
    return ordered
