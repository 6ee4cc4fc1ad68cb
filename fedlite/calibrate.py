"""Post-training static quantization: activation ranges measured on a few samples, no training.

    params = quantize_static(spec, float_params, dataset.x[:256])
    integer = to_integer(quantize.at(build(spec), 8), params)

A float-trained model becomes what integer-aware training would have left: the same params, and an `act_range` for
each rounded layer. (Krishnamoorthi 2018, §3.1) There is no correction of biases (Nagel et al. 2019, §4.2): on
Fashion-MNIST it gained nothing at 8 and 4 bits, and lost 6 to 14 points at 2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.compress import observers, quantize
from fedlite.errors import DataError
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
) -> dict[str, Array]:
    """`params` with an `act_range` per rounded layer, as `params_of(quantize.prepare(build(spec)))` names them.

    How weights are rounded, to how many bits, per channel or per tensor, is said to `to_integer` by its model:
    `quantize.at(model, bits, per_channel)`; ranges do not depend on it.

    `x_calibration` is (n, *input shape), n ≥ 1; a few hundred samples do. `observer` as `observers.named`. `params`
    are those of the float model; ranges among them are measured anew. The same arguments give the same bytes.
    UpdateError if params do not fit the model or are not finite; SettingsError for an unknown observer, or a model
    with nothing to round; DataError for samples that are none, not finite or not for this model, and for a layer
    that meets zeros only.
    """
    net = build(spec)
    load_params(net, {name: params[name] for name in layout(net) if name in params})
    seen = _measure(net.eval(), x_calibration, observers.named(observer))
    ranges = {f"{name}.act_range": np.asarray(ends, np.float32) for name, ends in seen.items()}
    names = layout(quantize.prepare(net))
    return {name: ranges[name] if name in ranges else params[name].copy() for name in names}


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


def _run(net: nn.Module, x: NDArray[Any], look: Callable[[str, Tensor], None]) -> None:
    """A forward pass over all samples that shows each layer's input."""
    if not len(x):
        raise DataError("calibration needs samples; none were given", remedy="give a few hundred")

    def show(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        look(name, inputs[0].detach())

    hooks = [layer.register_forward_pre_hook(partial(show, name)) for name, layer in _layers(net).items()]
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
