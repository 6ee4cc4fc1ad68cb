"""A model's file, model.safetensors: the parameters by name, and the spec that rebuilds the network."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from fedlite.errors import SettingsError, StorageError, UpdateError
from fedlite.models.bridge import layout
from fedlite.models.registry import ModelSpec, skeleton
from fedlite.tensors import check_finite, check_like
from fedlite.train_settings import BITS
from fedlite.types import Array, Params

KEY = "fedlite"  # one entry of metadata: safetensors writes several in an order that varies
RANGE = ".act_range"  # of int8-aware models: beside the network's own tensors
WHOLE = "give the file as it was written, whole"
_ROUNDED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
)  # layers that have a range below 32 bits, as compress/quantize makes


@dataclass(frozen=True, eq=False)
class Saved:
    """A network's spec, the bits it computes at, and its parameters; below 32 bits with activation ranges."""

    spec: ModelSpec
    bits: int
    params: Params


def save_model(path: Path, spec: str, bits: int, params: Params) -> None:
    """Write the file, whole or not at all; `spec` is a ModelSpec's JSON. The same model is the same bytes.

    StorageError where the disk refuses: what was at `path` before is still there.
    """
    arrays = {name: np.ascontiguousarray(value) for name, value in params.items()}
    made = json.dumps({"bits": bits, "model": json.loads(spec)}, sort_keys=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(arrays, part, metadata={KEY: made})
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error}", remedy="free some space, or choose another folder"
        ) from error


def load_model(path: Path) -> Saved:
    """What `save_model` wrote, in the network's own order.

    SettingsError for a file that is missing, cut, of another format, of an unknown model, of another number of bits
    than its ranges are for, or that holds NaN.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            head = json.loads(metadata[KEY])
            spec, bits = ModelSpec.from_json(json.dumps(head["model"])), head["bits"]
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"cannot read {path} as safetensors: {error}", remedy=WHOLE) from error
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise SettingsError(
            f"{path} does not say which model it holds: it is not one of fedlite's", remedy=WHOLE
        ) from error
    except SettingsError as error:  # of the spec
        raise SettingsError(f"{path}: {error.args[0]}", remedy=WHOLE) from error
    if type(bits) is not int or bits not in BITS:
        raise SettingsError(f"{path} says {bits!r:.80} bits; 32, or 2 to 8 wanted", remedy=WHOLE)
    try:
        net = skeleton(spec)
        _check_ranges(bits, net, arrays)
        return Saved(spec, bits, _ordered(layout(net), arrays))
    except (SettingsError, UpdateError) as error:
        raise SettingsError(
            f"{path} does not hold the model it names: {error.args[0]}", remedy=WHOLE
        ) from error


def _check_ranges(bits: int, net: nn.Module, arrays: Mapping[str, Array]) -> None:
    """SettingsError unless each layer that rounds at `bits` has its range, [min, max], and no other has one."""
    found = {name: value for name, value in arrays.items() if name.endswith(RANGE)}
    rounded = {name for name, layer in net.named_modules() if type(layer) in _ROUNDED} if bits < 32 else set()
    wanted = {f"{name}{RANGE}" for name in rounded}
    if odd := sorted(wanted ^ set(found))[:3]:
        raise SettingsError(
            f"at {bits} bits {odd} are {'not wanted' if set(odd) & set(found) else 'missing'}"
        )
    for name, value in found.items():
        if value.dtype != np.float32 or value.shape != (2,) or not value[0] <= value[1]:
            raise SettingsError(f"{name!r} is {str(value)[:80]}; float32 [min, max] wanted")


def _ordered(shapes: Params, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The network's tensors as its layout has them, each layer's range after its last; all checked."""
    check_like({name: arrays[name] for name in shapes if name in arrays}, shapes, "tensor")
    check_finite(arrays, "tensor")
    if odd := sorted(name for name in set(arrays) - set(shapes) if not name.endswith(RANGE)):
        raise SettingsError(f"{odd[:3]} are not the model's")
    ordered: dict[str, Array] = {}
    names = list(shapes)
    for name, following in zip(names, [*names[1:], ""], strict=True):
        ordered[name] = arrays[name]
        layer = name.rpartition(".")[0]
        if f"{layer}{RANGE}" in arrays and following.rpartition(".")[0] != layer:
            ordered[f"{layer}{RANGE}"] = arrays[f"{layer}{RANGE}"]
    return ordered
