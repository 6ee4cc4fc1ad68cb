"""What can be counted without running: parameters, non-zeros, multiply-adds, bytes on disk."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from fedlite.compress import quantize
from fedlite.compress.integer import to_integer
from fedlite.errors import SettingsError
from fedlite.models.bridge import initial_params, layout
from fedlite.models.registry import ModelSpec, build, skeleton
from fedlite.profile.examples import Example, meta_batch
from fedlite.profile.source import Values
from fedlite.profile.unknown import Unknown
from fedlite.types import is_range

if TYPE_CHECKING:
    from torch import nn

NAMELESS = "the file does not hold every parameter under its layer's name"
TRAINING = 3  # a step's backward pass computes two products where its forward pass computes one


@dataclass(frozen=True)
class Layer:
    """One layer that has parameters or multiplies; `macs` are of one example."""

    name: str
    kind: str
    parameters: int
    nonzeros: int
    macs: int


@dataclass(frozen=True)
class Counts:
    """Learned parameters, those that are not zero, and multiply-adds of one example's forward pass.

    Without values for every parameter nobody knows how many are not zero.
    """

    parameters: int
    nonzeros: int | Unknown
    macs: int
    layers: tuple[Layer, ...]

    @property
    def flops(self) -> int:
        """A multiply-add is two operations; norms, activations and pooling are not counted."""
        return 2 * self.macs


def count(spec: ModelSpec, values: Values, example: Example) -> Counts:
    """Counts of a network with these values. Shapes alone are run: no memory, whatever the model's size.

    By torch's own counter (`FlopCounterMode`), on the meta device, where a recurrent layer shows as the products it
    is made of; run for real it would be one operation that the counter does not know.
    """
    net = skeleton(spec).eval()
    macs = _macs(net, example)
    learned = dict(net.named_parameters())
    layers = []
    for path, module in net.named_modules():
        own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
        inside = sum(macs[each] for each in macs if each.rpartition(".")[0] == path and each)
        layer = Layer(
            name=path or "(itself)",
            kind=type(module).__name__,
            parameters=sum(learned[name].numel() for name in own),
            nonzeros=sum(int(np.count_nonzero(values[name])) for name in own if name in values),
            macs=macs[path] - inside,
        )
        if layer.parameters or layer.macs:
            layers.append(layer)
    return Counts(
        parameters=sum(each.parameters for each in layers),
        nonzeros=sum(each.nonzeros for each in layers) if set(learned) <= set(values) else Unknown(NAMELESS),
        macs=macs[""],
        layers=tuple(layers),
    )


def shapes(spec: ModelSpec) -> Values:
    """Values for `count` where only shapes are asked for; they take no memory, and count as zeros."""
    return layout(skeleton(spec))


def _macs(net: "nn.Module", example: Example) -> Counter[str]:
    """Module path → multiply-adds of one example, what its own modules do included; "" is all of it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(meta_batch(example, 1))
    root = type(net).__name__
    found: Counter[str] = Counter()
    for name, operations in counter.get_flop_counts().items():
        if name == root or name.startswith(f"{root}."):
            found[name.removeprefix(root).removeprefix(".")] = sum(operations.values()) // 2
    found[""] = int(counter.get_total_flops()) // 2
    return found


def float32_bytes(spec: ModelSpec) -> int:
    """The size of the model as model.safetensors, at 32 bits."""
    arrays = {name: np.zeros(like.shape, np.float32) for name, like in layout(skeleton(spec)).items()}
    made = json.dumps({"bits": 32, "model": json.loads(spec.to_json())}, sort_keys=True)
    return len(save(arrays, metadata={"fedlite": made}))


def int8_bytes(spec: ModelSpec) -> int | Unknown:
    """The size of the model as model.int8.safetensors, which depends on its layers and not on its values."""
    try:
        net = quantize.prepare(build(spec))
        params = initial_params(net, 0)
        ranges = {name: np.array([0, 1], np.float32) for name in params if is_range(name)}
        model = to_integer(build(spec), params | ranges)
    except SettingsError as error:
        return Unknown(str(error.args[0]))
    with TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.int8.safetensors")
        return (Path(folder) / "model.int8.safetensors").stat().st_size
