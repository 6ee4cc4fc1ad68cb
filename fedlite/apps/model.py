"""Models by their spec, and the last things done with one: testing it and writing it out. Loads torch when called."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedlite.apps.settings import JobSettings
from fedlite.config import parse_shape
from fedlite.errors import DataError, SettingsError
from fedlite.modules import module_of
from fedlite.types import Array, Masks, Params

if TYPE_CHECKING:
    from fedlite.data.base import Dataset
    from fedlite.models.registry import Option


SMALL_IMAGE = 64  # pixels

Evaluate = Callable[..., Mapping[str, float]]  # as fedlite.train.evaluate


def initial(spec: str, bits: int, seed: int) -> dict[str, Array]:
    """The first parameters of a run; every program makes the same from the same seed."""
    from fedlite.models import initial_params

    return initial_params(module_of(spec, bits), seed)


def choose(settings: JobSettings, test: "Dataset | None") -> str:
    """The ModelSpec, as JSON, that the settings and the test data name."""
    from fedlite.data.datasets import NAMES
    from fedlite.models import default_model, for_shape
    from fedlite.models.registry import resolve
    from fedlite.models.words import spec_of_text

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
    if settings.model in ("auto", name):
        return resolve(name, options).to_json()
    return spec_of_text(settings.model, fit(settings.model.partition(":")[0], shape, classes)).to_json()


def fit(name: str, shape: tuple[int, ...], classes: int) -> "dict[str, Option]":
    """As much of the shape and class count as this family takes as options; small images keep their size at first."""
    from fedlite.models.registry import resolve

    known = dict(resolve(name, {}).options)
    wanted: dict[str, Option] = {"input_shape": shape, "num_classes": classes}
    if len(shape) == 3 and min(shape[1:]) <= SMALL_IMAGE:
        wanted["stem_stride"] = 1
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


def score(
    spec: str, bits: int, params: Params, test: "Dataset", evaluate: Evaluate | None = None
) -> dict[str, float]:
    """Loss and accuracy on the test data, as trained: rounded as int8 when bits is 8.

    `evaluate` computes them; `fedlite.train.evaluate`, if it is not given.
    """
    from fedlite import train

    result = (evaluate or train.evaluate)(module_of(spec, bits), params, test.x, test.y, bits=bits)
    return {"loss": result["loss"], "accuracy": result["accuracy"]}


def write(
    folder: Path, spec: str, bits: int, params: Params, masks: Masks, test: "Dataset | None"
) -> Mapping[str, object]:
    """Write model.safetensors and, below 32 bits, the integer model.int8.safetensors; returns what they are worth."""
    from fedlite.models.saved import save_model

    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "model.safetensors", spec, bits, params)
    summary: dict[str, object] = {
        "model": json.loads(spec),
        "parameters": sum(value.size for value in params.values()),
        "live_parameters": sum(
            int(masks[name].sum()) if name in masks else value.size for name, value in params.items()
        ),
        "bytes_float32": (folder / "model.safetensors").stat().st_size,
    }
    if bits < 32:
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
