"""Models by their spec, and the last things done with one: testing it and writing it out. Loads torch when called."""

import json
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from safetensors.numpy import save_file

from fedlite.apps.settings import JobSettings, parse_shape
from fedlite.errors import DataError, SettingsError
from fedlite.types import Array, Masks, Params

if TYPE_CHECKING:
    from torch import nn

    from fedlite.data.base import Dataset

_kept = threading.local()


def module_of(spec: str, bits: int) -> "nn.Module":
    """The module of a ModelSpec's JSON, rounding as int8 does when bits is 8; how it computes, not its weights.

    Each thread keeps the last one: building takes as long as a few training steps, and no two threads may run one
    module at the same time.
    """
    if getattr(_kept, "key", None) != (spec, bits):
        from fedlite.compress import quantize
        from fedlite.models import ModelSpec, build

        _kept.module = quantize.at(build(ModelSpec.from_json(spec)), bits)
        _kept.key = (spec, bits)
    return cast("nn.Module", _kept.module)


@lru_cache(4)
def shapes_of(spec: str, bits: int) -> Params:
    """Names and shapes of the model's parameters, without values and without memory for them."""
    from fedlite.compress import quantize
    from fedlite.models import ModelSpec
    from fedlite.models.bridge import layout
    from fedlite.models.registry import skeleton

    return layout(quantize.at(skeleton(ModelSpec.from_json(spec)), bits))


def initial(spec: str, bits: int, seed: int) -> dict[str, Array]:
    """The first parameters of a run; every program makes the same from the same seed."""
    from fedlite.models import initial_params

    return initial_params(module_of(spec, bits), seed)


def choose(settings: JobSettings, test: "Dataset | None") -> str:
    """The ModelSpec, as JSON, that the settings and the test data name."""
    from fedlite.data.datasets import NAMES
    from fedlite.models import default_model, for_shape
    from fedlite.models.registry import resolve

    if settings.model == "auto" and settings.dataset in NAMES:
        return resolve(*default_model(settings.dataset)).to_json()
    if test is not None:
        shape, classes = tuple(test.x.shape[1:]), test.num_classes
    elif settings.input_shape and settings.num_classes:
        shape, classes = parse_shape(settings.input_shape), settings.num_classes
    else:
        raise SettingsError(
            "the model's input is unknown: give --dataset, or --input-shape and --num-classes"
        )
    name, options = for_shape(shape, classes)
    if settings.model not in ("auto", name):
        name, options = settings.model, fit(settings.model, shape, classes)
    return resolve(name, options).to_json()


def fit(name: str, shape: tuple[int, ...], classes: int) -> "dict[str, int | float | tuple[int, ...]]":
    """As much of the shape and class count as this family takes as options."""
    from fedlite.models.registry import resolve

    known = dict(resolve(name, {}).options)
    wanted: dict[str, int | float | tuple[int, ...]] = {"input_shape": shape, "num_classes": classes}
    return {key: value for key, value in wanted.items() if key in known}


def open_test(settings: JobSettings) -> "Dataset | None":
    """The test data the settings name, or None for a server that has none (--dataset '')."""
    from fedlite.data.spec import open_data

    if not settings.dataset:
        return None
    test = open_data(settings.dataset, split="test", data_dir=settings.data_dir)
    if not len(test):
        raise DataError(f"{settings.dataset} holds no test samples")
    return test


def score(spec: str, bits: int, params: Params, test: "Dataset") -> dict[str, float]:
    """Loss and accuracy on the test data, as trained: rounded as int8 when bits is 8."""
    from fedlite.train import evaluate

    result = evaluate(module_of(spec, bits), params, test.x, test.y, bits=bits)
    return {"loss": result["loss"], "accuracy": result["accuracy"]}


def write(
    folder: Path, spec: str, bits: int, params: Params, masks: Masks, test: "Dataset | None"
) -> Mapping[str, object]:
    """Write model.safetensors and, when bits is 8, the integer model.int8.safetensors; returns what they are worth."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(value) for name, value in params.items()}
    save_file(arrays, folder / "model.safetensors", metadata={"model": spec, "bits": str(bits)})
    summary: dict[str, object] = {
        "model": json.loads(spec),
        "parameters": sum(value.size for value in params.values()),
        "live_parameters": sum(
            int(masks[name].sum()) if name in masks else value.size for name, value in params.items()
        ),
        "bytes_float32": (folder / "model.safetensors").stat().st_size,
    }
    if bits == 8:
        from fedlite.compress.integer import to_integer

        try:
            integer = to_integer(module_of(spec, bits), params)
        except SettingsError as error:  # a layer that no sample has reached yet
            return summary | {"no_int8_because": str(error)}
        integer.save(folder / "model.int8.safetensors")
        summary["bytes_int8"] = (folder / "model.int8.safetensors").stat().st_size
        if test is not None:
            summary["accuracy_int8"] = integer.accuracy(test.x, test.y)
    return summary
