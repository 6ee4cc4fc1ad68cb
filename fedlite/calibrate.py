"""Post-training static quantization: activation ranges measured on a few samples, no training.

    params = quantize_static(spec, float_params, dataset.x[:256])
    integer = to_integer(quantize.at(build(spec), 8), params)

A float-trained model becomes what integer-aware training would have left: the same params, and an `act_range` for
each rounded layer. (Krishnamoorthi 2018, §3.1; bias correction: Nagel et al. 2019, §4.2)
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.compress import observers, quantize
from fedlite.errors import DataError, SettingsError
from fedlite.models.bridge import layout, load_params
from fedlite.models.registry import ModelSpec, build
from fedlite.types import Array, Params

BATCH = 64  # samples at a time


def quantize_static(
    spec: ModelSpec,
    params: Params,
    x_calibration: NDArray[Any],
    *,
    observer: str = "percentile:99.99",
    bits: int = 8,
    per_channel: bool = True,
    correct_bias: bool = False,
) -> dict[str, Array]:
    """`params` with an `act_range` per rounded layer, as `params_of(quantize.at(build(spec), bits))` names them.

    `x_calibration` is (n, *input shape), n ≥ 1; a few hundred samples do. `observer` as `observers.named`. `params`
    are those of the float model; ranges among them are measured anew. The same arguments give the same bytes.
    `correct_bias` takes off each bias what rounding the weights to `bits` adds to the layer's mean output on these
    samples (it pays below 5 bits, not at 8); layers without a bias stay as they are. SettingsError for bits outside
    2 to 8; UpdateError if params do not fit the model or are not finite; DataError for samples that are none, not
    finite or not for this model, and for a layer that meets zeros only.
    """
    if bits == 32:
        raise SettingsError("bits is 32: float32 needs no calibration; 2 to 8 are for integers")
    net = build(spec)
    load_params(net, {name: params[name] for name in layout(net) if name in params})
    seen = _measure(net.eval(), x_calibration, observers.named(observer))
    ranges = {f"{name}.act_range": np.asarray(ends, np.float32) for name, ends in seen.items()}
    rounding = quantize.at(net, bits, per_channel)
    made = {name: ranges[name] if name in ranges else params[name].copy() for name in layout(rounding)}
    load_params(rounding, made)
    if correct_bias:
        made |= _corrected(net, rounding, x_calibration)
    return made


def _measure(net: nn.Module, x: NDArray[Any], observer: observers.Observer) -> dict[str, tuple[float, float]]:
    """The range of each layer's input in a float forward pass."""
    states = {name: observer.start() for name in _layers(net)}

    def look(name: str, value: Tensor) -> None:
        try:
            states[name] = observer.add(states[name], value.numpy())
        except DataError as error:
            raise DataError(f"layer {name!r}: {error.args[0]}", remedy=error.remedy) from error

    _run(net, x, look)
    ranges = {name: observer.finish(state) for name, state in states.items() if state.count}
    if idle := [name for name in states if not any(ranges.get(name, (0.0, 0.0)))]:
        raise DataError(
            f"layer {idle[0]!r} meets nothing but zeros in these {len(x)} samples",
            remedy="calibrate with more samples, or with such as the model will meet",
        )
    return ranges


def _corrected(net: nn.Module, rounding: nn.Module, x: NDArray[Any]) -> dict[str, Array]:
    """Biases less the mean, over samples and places, of what the weights' rounding adds. (Nagel 2019, Eq. 17)"""
    excess: dict[str, list[Tensor]] = {
        name: [] for name, layer in _layers(net).items() if layer.bias is not None
    }
    lost = {name: _rounding_error(rounding.get_submodule(name)) for name in excess}

    def look(name: str, value: Tensor) -> None:
        if name in lost:
            added = lost[name](value)
            channel = added.ndim - 1 if isinstance(lost[name], nn.Linear) else 1
            excess[name].append(added.transpose(0, channel).flatten(1).mean(1) * len(value))

    _run(net, x, look)
    return {
        f"{name}.bias": (layer.bias.detach() - torch.stack(excess[name]).sum(0) / len(x)).numpy()
        for name, layer in _layers(net).items()
        if name in excess
    }


def _rounding_error(layer: nn.Module) -> nn.Module:
    """The float layer whose weight is the rounded one less the exact one, without a bias."""
    assert isinstance(layer, quantize.Rounded)
    error: Any = quantize.at(layer, 32)
    grid = layer.grid(quantize.activation_grid(layer.act_range))
    error.weight = nn.Parameter(quantize.fake_quantize(layer.weight, grid) - layer.weight)
    error.bias = None
    made: nn.Module = error
    return made


def _run(net: nn.Module, x: NDArray[Any], look: Any) -> None:
    """A forward pass over all samples that shows each layer's input."""
    if not len(x):
        raise DataError("calibration needs samples; none were given", remedy="give a few hundred")
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: look(name, inputs[0].detach()))
        for name, layer in _layers(net).items()
    ]
    try:
        with torch.no_grad():
            for start in range(0, len(x), BATCH):
                net(torch.from_numpy(np.ascontiguousarray(x[start : start + BATCH])))
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"the model takes no samples of shape {x.shape[1:]} {x.dtype}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _layers(net: nn.Module) -> dict[str, Any]:
    """The layers that integers can compute, by name."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    return {name: layer for name, layer in net.named_modules() if type(layer) in kinds}
