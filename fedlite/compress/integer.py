"""The integer model as deployed: integer layers, float glue.

Every Linear, Conv1d and Conv2d multiplies and adds whole numbers exactly: uint8 input less its zero point, int8
weight (or of fewer bits), int32 bias and accumulator (Jacob et al. 2018, §2.2 and §2.4). Between layers the numbers
are float32, for what is not such a layer: norms, activations, pooling, shortcuts, LSTM and Embedding, whose weights
stay float32. The arithmetic is that of an int8 runtime; the speed is not, since the whole numbers are held in float64.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.compress import affine, quantize
from fedlite.errors import CodecError, SettingsError
from fedlite.models.bridge import layout, load_params
from fedlite.models.registry import ModelSpec, build, skeleton, spec_of
from fedlite.tensors import check_like
from fedlite.types import Array, Params, is_range

FORMAT = "fedlite.int8.v1"
FORMATS = {FORMAT: 8} | {f"fedlite.int{bits}.v1": bits for bits in range(2, 8)}  # name → bits of a weight
BATCH = 256  # examples at a time

Plain = nn.Linear | nn.Conv1d | nn.Conv2d
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """The model's spec, and its tensors by name: for each integer layer

    | `<layer>.weight` | int8, the float layer's shape | −127 … 127; −7 … 7 when bits is 4, and so on |
    | `<layer>.bias` | int32 (channels,), if the float layer has one | in steps of act_scale · weight_scale |
    | `<layer>.weight_scale` | float32 (channels,) | > 0 |
    | `<layer>.act_scale` | float32 (1,) | > 0 |
    | `<layer>.act_zero_point` | uint8 (1,) | |

    and float32 tensors under the model's own names for the rest. SettingsError if they are anything else, or if
    a sum could leave int32.
    """

    spec: ModelSpec
    tensors: Tensors
    bits: int = 8  # of a weight, 2 to 8

    def __post_init__(self) -> None:
        """Check names, dtypes, shapes and ranges."""
        _check(self.tensors, skeleton(self.spec), self.bits)

    @cached_property
    def network(self) -> nn.Module:
        """The model as a module in evaluation mode: its own forward with an IntegerLayer for each such layer."""
        net = build(self.spec)
        load_params(net, {n: _float(self.tensors.get(n), v) for n, v in layout(net).items()})
        for name, layer in _layers(net).items():
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, IntegerLayer(layer, _parts(self.tensors, name)))
        return net.eval()

    def run(self, x: NDArray[Any]) -> Array:
        """Examples (n, *input shape) → logits float32 (n, num_classes)."""
        with torch.no_grad():
            parts = [self.network(torch.from_numpy(x[i : i + BATCH].copy())) for i in range(0, len(x), BATCH)]
        return np.concatenate([part.numpy() for part in parts])

    def accuracy(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        """The share of examples whose largest logit is the label's."""
        return float((self.run(x).argmax(1) == y).mean())

    def save(self, path: Path) -> None:
        """One safetensors file that `load` needs nothing else for; the same model is the same bytes.

        Below 8 bits weights are packed: uint8 (⌈count · bits / 8⌉,), each level plus the largest, low bits first.
        Its metadata are one entry, format → spec: safetensors writes several in an order that varies.
        """
        tensors = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
        if self.bits < 8:
            tensors |= {n: _packed(v, self.bits) for n, v in tensors.items() if v.dtype == np.int8}
        name = next(name for name, bits in FORMATS.items() if bits == self.bits)
        save_file(tensors, path, metadata={name: self.spec.to_json()})

    @staticmethod
    def load(path: Path) -> "IntegerModel":
        """What `save` wrote. SettingsError for a file that is missing, damaged, or of another format."""
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if len(metadata) != 1 or not set(metadata) <= set(FORMATS):
                    raise SettingsError(
                        f"{path} is not a {FORMAT} file; its metadata are {str(metadata)[:200]}"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        except (OSError, SafetensorError) as error:
            raise SettingsError(f"cannot read {path} as safetensors: {error}") from error
        [(name, text)] = metadata.items()
        spec, bits = ModelSpec.from_json(text), FORMATS[name]
        if bits < 8:
            tensors |= _unpacked(tensors, spec, bits)
        return IntegerModel(spec, tensors, bits)


class IntegerLayer(nn.Module):
    """One layer in whole numbers, held in float64: exact below 2^53, and `_check` has shown |sums| < 2^31."""

    def __init__(self, layer: Plain, parts: Tensors) -> None:
        super().__init__()
        self.operation = _operation(layer)
        self.weight = torch.tensor(parts["weight"], dtype=torch.float64)
        self.bias = torch.tensor(parts["bias"], dtype=torch.float64) if "bias" in parts else None
        scale, zero_point = (torch.tensor(float(parts[f"act_{each}"][0])) for each in ("scale", "zero_point"))
        self.grid = quantize.Grid(scale, zero_point, 0, quantize.LEVELS)
        self.step = torch.tensor(parts["weight_scale"]).reshape(-1, *[1] * (self.weight.ndim - 2)) * scale

    def accumulate(self, steps: Tensor) -> Tensor:
        """Inputs less the zero point, whole numbers in float64 → the int32 accumulators, likewise."""
        return self.operation(steps, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float32 → float32, by way of integers; shapes as the float layer."""
        return (self.accumulate(quantize.to_steps(x, self.grid).double()) * self.step).float()


def to_integer(model: nn.Module, params: Params) -> IntegerModel:
    """The integer model of integer-aware trained `params`, as `params_of(prepare(model))` names them.

    Weights have the bits that `model` rounds to, 8 where it is a float one.
    UpdateError if params do not fit the model; SettingsError if a layer has no activation range yet, or the model
    was not made by `build`.
    """
    net = copy.deepcopy(model) if quantize.is_prepared(model) else quantize.prepare(model)
    check_like(params, layout(net), "params")
    load_params(net, params)
    tensors: dict[str, NDArray[Any]] = {}
    bits = 8
    for name, layer in net.named_modules():
        if isinstance(layer, quantize.Rounded):
            if not layer.act_range.any():
                raise SettingsError(f"layer {name!r} has no activation range; train with bits = 8 first")
            bits = layer.bits
            tensors |= {f"{name}.{part}": value for part, value in _integers(layer).items()}
    rest = {n: v for n, v in params.items() if n not in tensors and not is_range(n)}
    return IntegerModel(spec_of(model), tensors | rest, bits)


def _integers(layer: quantize.Rounded) -> dict[str, NDArray[Any]]:
    inputs = quantize.activation_grid(layer.act_range)
    weights = layer.grid(inputs)
    parts = {
        "weight": quantize.to_steps(layer.weight.detach(), weights).to(torch.int8),
        "weight_scale": weights.scale.flatten(),
        "act_scale": inputs.scale.reshape(1),
        "act_zero_point": inputs.zero_point.to(torch.uint8).reshape(1),
    }
    if layer.bias is not None:
        bias_grid = quantize.bias_grid(weights, inputs)
        parts["bias"] = quantize.to_steps(layer.bias.detach(), bias_grid).to(torch.int32)
    return {name: value.numpy() for name, value in parts.items()}


def _packed(weight: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Levels −L … L as 0 … 2L in `bits` bits each."""
    return np.frombuffer(affine.pack(weight + np.int8(quantize.limit(bits)), bits), np.uint8)


def _unpacked(tensors: Tensors, spec: ModelSpec, bits: int) -> dict[str, NDArray[Any]]:
    """The int8 weights of a file of fewer bits; what is not packed is left for `_check` to refuse."""
    weights = {}
    for layer, like in _layers(skeleton(spec)).items():
        packed = tensors.get(name := f"{layer}.weight")
        if packed is None or packed.dtype != np.uint8 or packed.ndim != 1:
            continue
        try:
            levels = affine.unpack(packed.tobytes(), bits, tuple(like.weight.shape))
        except CodecError as error:
            raise SettingsError(f"{name}: {error.args[0]}") from error
        weights[name] = levels.astype(np.int8) - np.int8(quantize.limit(bits))
    return weights


def _check(tensors: Tensors, net: nn.Module, bits: int) -> None:
    """SettingsError unless `tensors` are what IntegerModel's docstring says, for the layers of `net`."""
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        n: (np.float32, v.shape) for n, v in layout(net).items()
    }
    for name, layer in _layers(net).items():
        channels = (layer.weight.shape[0],)
        wanted[f"{name}.weight"] = (np.int8, tuple(layer.weight.shape))
        wanted[f"{name}.weight_scale"] = (np.float32, channels)
        wanted |= {f"{name}.act_scale": (np.float32, (1,)), f"{name}.act_zero_point": (np.uint8, (1,))}
        if layer.bias is not None:
            wanted[f"{name}.bias"] = (np.int32, channels)
    if odd := sorted(set(tensors) ^ set(wanted)):
        raise SettingsError(f"the integer model's tensors are not those of its layers: {odd[:3]}")
    for name, (dtype, shape) in wanted.items():
        value = tensors[name]
        if value.dtype != dtype or value.shape != shape:
            raise SettingsError(f"{name!r} is {value.dtype} {value.shape}, {np.dtype(dtype)} {shape} wanted")
        if not np.isfinite(value).all() or (name.endswith("_scale") and not (value > 0).all()):
            raise SettingsError(f"{name!r} holds a value that is not finite, or a scale that is not positive")
    for name in _layers(net):
        _check_sums(name, _parts(tensors, name), quantize.limit(bits))


def _check_sums(name: str, parts: Tensors, limit: int) -> None:
    """Weights are on their grid, and the largest sum any input can give, plus the bias, fits int32."""
    least, most = int(parts["weight"].min()), int(parts["weight"].max())
    if least < -limit or most > limit:
        raise SettingsError(f"{name}.weight holds {least} to {most}; weights here are -{limit} to {limit}")
    zero_point = int(parts["act_zero_point"][0])
    largest = np.abs(parts["weight"].astype(np.int64)).reshape(len(parts["weight"]), -1).sum(1)
    largest *= max(zero_point, quantize.LEVELS - zero_point)
    largest += np.abs(parts.get("bias", np.zeros(1)).astype(np.int64))
    if largest.max() >= 2**31:
        raise SettingsError(f"layer {name!r} can reach {largest.max()}, more than an int32 accumulator holds")


def _layers(net: nn.Module) -> dict[str, Plain]:
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, Plain)}


def _parts(tensors: Tensors, name: str) -> Tensors:
    known = ("weight", "bias", "weight_scale", "act_scale", "act_zero_point")
    return {part: tensors[f"{name}.{part}"] for part in known if f"{name}.{part}" in tensors}


def _float(value: NDArray[Any] | None, like: Array) -> Array:
    """A float32 tensor as it is; zeros in place of integers, which an IntegerLayer will hold."""
    return value if value is not None and value.dtype == np.float32 else np.zeros(like.shape, np.float32)


def _operation(layer: Plain) -> Callable[..., Tensor]:
    """The layer as a function of (input, weight, bias)."""
    if isinstance(layer, nn.Linear):
        return F.linear
    convolve = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
    options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    return partial(convolve, **options)
