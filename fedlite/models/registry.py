"""Models by name and options: a ModelSpec is all a settings record or a saved file needs to rebuild one."""

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fedlite.errors import SettingsError
from fedlite.models.bridge import initial_params, load_params
from fedlite.models.changes import Change, apply_changes, changes_from_json
from fedlite.models.char_lstm import CharLstm
from fedlite.models.lenet import LeNet5, LeNet300
from fedlite.models.mcmahan import Cnn, TwoNn
from fedlite.models.mobilenet_v2 import MobileNetV2
from fedlite.models.plain import Mlp, PooledCnn
from fedlite.models.sensor import SensorCnn
from fedlite.models.shufflenet_v2 import ShuffleNetV2
from fedlite.models.slim_resnet import SlimResNet
from fedlite.models.small import Linear, SmallCnn
from fedlite.models.squeezenet import SqueezeNet
from fedlite.models.ssdlite import SsdLite
from fedlite.models.text_rnn import TextGru, TextLstm
from fedlite.models.text_transformer import TextTransformer

Option = int | float | str | tuple[int, ...]
MAX_PARAMETERS = 2**28  # 1 GiB of float32: far above any model for these devices, far below harm
MAX_DEPTH = 256  # layers that one option asks for: they are made before their parameters are counted
_DEPTHS = ("layers", "blocks")  # options that say how many layers there are

_FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "linear": Linear,
    "small_cnn": SmallCnn,
    "mlp": Mlp,
    "pooled_cnn": PooledCnn,
    "2nn": TwoNn,
    "cnn": Cnn,
    "lenet_300_100": LeNet300,
    "lenet5": LeNet5,
    "sensor_cnn": SensorCnn,
    "char_lstm": CharLstm,
    "mobilenet_v2": MobileNetV2,
    "shufflenet_v2": ShuffleNetV2,
    "squeezenet": SqueezeNet,
    "slim_resnet": SlimResNet,
    "ssdlite": SsdLite,
    "text_gru": TextGru,
    "text_lstm": TextLstm,
    "text_transformer": TextTransformer,
}
NAMES = tuple(_FAMILIES)
DETECTORS = ("ssdlite",)  # their outputs are boxes; all others give one logit per class

_DEFAULTS: dict[str, tuple[str, dict[str, Option]]] = {
    "digits": ("small_cnn", {}),
    "mnist": ("cnn", {}),
    "fashion_mnist": ("cnn", {}),
    "motionsense": ("sensor_cnn", {}),
    "shakespeare": ("char_lstm", {}),
    "sms_spam": ("text_gru", {}),
    "cifar10": (
        "mobilenet_v2",
        {"input_shape": (3, 32, 32), "num_classes": 10, "width": 0.5, "stem_stride": 1},
    ),
}


@dataclass(frozen=True)
class ModelSpec:
    """A family's name, every option it is built with, sorted by name, and what was changed in it after.

    Hashable, and JSON both ways.
    """

    name: str
    options: tuple[tuple[str, Option], ...] = ()
    changes: tuple[Change, ...] = ()  # applied in this order

    def to_json(self) -> str:
        """One line, keys sorted: the same spec is the same text."""
        record: dict[str, Any] = {"name": self.name, "options": dict(self.options)}
        return json.dumps(record | ({"changes": self.changes} if self.changes else {}), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "ModelSpec":
        """Checked as `build` checks. SettingsError for anything but what `to_json` writes."""
        try:
            raw = json.loads(text)
            name, options = str(raw["name"]), dict(raw["options"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise SettingsError(f"{text[:80]!r} is not a model's name and options") from error
        if not {"name", "options"} <= set(raw) <= {"name", "options", "changes"}:
            raise SettingsError(
                f"a model record has the keys name, options and maybe changes, not {sorted(raw)}"
            )
        return replace(resolve(name, options), changes=changes_from_json(raw.get("changes", [])))


def resolve(name: str, options: dict[str, Any]) -> ModelSpec:
    """The full spec, defaults filled in. SettingsError, with what exists, for an unknown name or option."""
    if name not in _FAMILIES:
        raise SettingsError(f"unknown model {name!r}; there are {', '.join(NAMES)}")
    known = {item.name: item.default for item in inspect.signature(_FAMILIES[name]).parameters.values()}
    if odd := sorted(set(options) - set(known)):
        raise SettingsError(f"model {name!r} has no option {odd[0]!r}; it has {', '.join(known)}")
    full = {
        key: _checked(f"{name}.{key}", options.get(key, default), default) for key, default in known.items()
    }
    for key, value in full.items():
        _check_depth(f"{name}.{key}", value, counts=key in _DEPTHS)
    return ModelSpec(name, tuple(sorted(full.items())))


def build(name: str | ModelSpec, **options: Any) -> nn.Module:
    """A float32 model with the initial weights of seed 0; `spec_of` tells how it was built.

    Raises as `skeleton`. Draws from no global generator.
    """
    given = name if isinstance(name, ModelSpec) else ModelSpec(name)
    full = replace(given, options=tuple((dict(given.options) | options).items()))
    module = skeleton(full).to_empty(device="cpu")
    load_params(module, initial_params(module, seed=0))
    return module


def skeleton(spec: ModelSpec) -> nn.Module:
    """The model's layers on the meta device: names and shapes that take no memory.

    SettingsError for an unknown name or option, an input shape that does not fit, a change that fits no layer,
    more than MAX_PARAMETERS.
    """
    spec = replace(resolve(spec.name, dict(spec.options)), changes=spec.changes)
    try:
        with torch.device("meta"):
            module = _FAMILIES[spec.name](**dict(spec.options))
            apply_changes(module, spec.changes)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise SettingsError(f"no layers of a {spec.name!r} fit the options {dict(spec.options)}") from error
    count = sum(tensor.numel() for tensor in module.state_dict().values())
    if count > MAX_PARAMETERS:
        raise SettingsError(f"{spec.to_json()} has {count} parameters; at most {MAX_PARAMETERS} are allowed")
    module.spec = spec  # type: ignore[assignment]  # an attribute of ours; torch types them as tensors
    return module


def spec_of(module: nn.Module) -> ModelSpec:
    """The spec a module was built with. SettingsError for one that did not come from `build`."""
    spec = getattr(module, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise SettingsError(
            f"{type(module).__name__} was not made by models.build, so no file can rebuild it"
        )
    return spec


def default_model(dataset_name: str) -> tuple[str, dict[str, Option]]:
    """(name, options) that suit a data set of ours; for one's own data see `for_shape`."""
    if dataset_name not in _DEFAULTS:
        raise SettingsError(
            f"no default model for data set {dataset_name!r}; there is one for {', '.join(_DEFAULTS)}"
        )
    name, options = _DEFAULTS[dataset_name]
    return name, dict(options)


def for_shape(input_shape: tuple[int, ...], num_classes: int) -> tuple[str, dict[str, Option]]:
    """(name, options) for one's own data by the shape of one example.

    (channels, height, width) are images, (channels, time) sensor windows, (features,) anything else.
    """
    options: dict[str, Option] = {"input_shape": tuple(input_shape), "num_classes": num_classes}
    match tuple(input_shape):
        case (_, height, width) if min(height, width) < 16:
            return "small_cnn", options
        case (1, height, width) if max(height, width) <= 32:
            return "cnn", options
        case (_, height, width):
            return "mobilenet_v2", options | {
                "width": 0.5,
                "stem_stride": 1 if min(height, width) <= 64 else 2,
            }
        case (_, _):
            return "sensor_cnn", options
        case (_,):
            return "2nn", options
    raise SettingsError(
        f"no model takes examples of shape {tuple(input_shape)}; one to three dimensions are known"
    )


def _check_depth(what: str, value: Option, *, counts: bool) -> None:
    """SettingsError for an option that asks for more layers than MAX_DEPTH: by its length, or by what it counts."""
    sizes = value if isinstance(value, tuple) else (value,)
    depth = sum(each for each in sizes if isinstance(each, int)) if counts else len(sizes)
    if depth > MAX_DEPTH:
        raise SettingsError(f"{what} asks for more than {MAX_DEPTH} layers")


def _checked(what: str, value: Any, default: Option) -> Option:
    """An option as its default's type: positive, finite; lists (from JSON) become tuples."""
    if isinstance(default, tuple):
        if (
            isinstance(value, list | tuple)
            and value
            and all(type(each) is int and each > 0 for each in value)
        ):
            return tuple(value)
        raise SettingsError(f"{what} is {value!r}; a tuple of positive integers is wanted")
    if isinstance(default, str):  # one of the words the family knows: its constructor checks which
        if isinstance(value, str):
            return value
        raise SettingsError(f"{what} is {value!r}; a word as {default!r} is wanted")
    if isinstance(default, float):
        if type(value) in (int, float) and 0 < value <= sys.float_info.max:  # an int may be above all floats
            return float(value)
        raise SettingsError(f"{what} is {value!r}; a positive number is wanted")
    if type(value) is int and value > 0:
        return value
    raise SettingsError(f"{what} is {value!r}; a positive integer is wanted")
