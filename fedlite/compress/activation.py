"""How often each channel is silent after its ReLU, and how loud on average, over calibration data.

A channel that is almost always zero does little. (Hu et al. 2016, "Network Trimming", equation 1: APoZ)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from fedlite.errors import DataError
from fedlite.models.bridge import layout
from fedlite.tensors import apply_masks, check_like
from fedlite.types import Masks, Params

_RELU = {"aten::relu", "aten::relu_", "aten::hardtanh", "aten::hardtanh_", "aten::relu6", "aten::relu6_"}


class Activity(NamedTuple):
    """Of one layer's output channels, float64 (channels,)."""

    zeros: NDArray[np.float64]  # APoZ: the share of positions and examples where the channel is 0, in [0, 1]
    mean: NDArray[np.float64]  # over positions and examples, ≥ 0


def activity(
    model: nn.Module, params: Params, x: NDArray[Any], masks: Masks | None = None, *, batch_size: int = 128
) -> dict[str, Activity]:
    """Each Linear, Conv1d and Conv2d that a ReLU or ReLU6 follows, maybe after a norm or a pooling: its activity.

    x is (n, *input shape), n ≥ 1, in the order and scale of training. UpdateError if params do not fit the model;
    DataError without data or for data the model does not take.
    """
    if len(x) == 0:
        raise DataError("there are no calibration data", remedy="give some examples, without labels; 100 do")
    check_like(params, layout(model), "params")
    weights = {name: torch.tensor(value) for name, value in apply_masks(params, masks or {}).items()}
    watch = _Watch()
    mode = model.training
    try:
        with _watched(model.eval(), watch), torch.no_grad(), watch:
            for start in range(0, len(x), batch_size):
                functional_call(model, weights, (torch.as_tensor(x[start : start + batch_size]),))
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"the model takes no examples of shape {x.shape[1:]} {x.dtype}") from error
    finally:
        model.train(mode)
    return {name: Activity(zeros / count, sums / count) for name, (zeros, sums, count) in watch.found.items()}


def scores(found: Mapping[str, Activity], kind: str) -> dict[str, NDArray[np.float64]]:
    """Importance of the channels: "apoz" is 1 − APoZ, "activation" the mean."""
    return {name: 1 - each.zeros if kind == "apoz" else each.mean for name, each in found.items()}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts at each ReLU, for the layer that was last to run before it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.last: tuple[str, int] | None = None  # the layer and the axis of its channels
        self.found: dict[str, tuple[NDArray[np.float64], NDArray[np.float64], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name in _RELU and self.last is not None:
            self._count(*self.last, result)
        return result

    def _count(self, name: str, axis: int, value: Tensor) -> None:
        flat = value.detach().movedim(axis, 0).flatten(1).double().numpy()
        zeros, sums, count = self.found.get(name, (0.0, 0.0, 0))
        self.found[name] = (zeros + (flat == 0).sum(1), sums + flat.sum(1), count + flat.shape[1])


@contextmanager
def _watched(model: nn.Module, watch: _Watch) -> Iterator[None]:
    def after(name: str, axis: int) -> Any:
        def note(*_: Any) -> None:
            watch.last = (name, axis)

        return note

    hooks = [
        layer.register_forward_hook(after(name, -1 if isinstance(layer, nn.Linear) else 1))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
