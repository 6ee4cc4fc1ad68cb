"""What int8 training knows of a network besides layers with int8 weights: small operations, one by one."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

Weights = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Operation:
    """value (batch, …) → value (batch, …), each example alone."""

    apply: Callable[[Tensor, Weights], Tensor]  # its own weights by name
    weights: tuple[str, ...] = ()
    channels: int = 0  # entries of each of its weights
    is_linear: bool = False  # then its gradient needs no value
    mask: Callable[[Tensor], Tensor] | None = (
        None  # of an activation: where the gradient passes, given its input
    )


def _plain(function: Callable[..., Tensor], is_linear: bool = False, **known: Any) -> Operation:
    return Operation(lambda value, _: function(value), is_linear=is_linear, **known)


def _relu() -> Operation:
    return _plain(F.relu, mask=lambda value: value > 0)


def _relu6() -> Operation:
    return _plain(F.relu6, mask=lambda value: (value > 0) & (value < 6))


_RELU = {F.relu, torch.relu, "relu", "relu_"}
_SUM = {operator.add, operator.iadd, torch.add, "add", "add_"}


def is_sum(node: fx.Node) -> bool:
    """Whether a node adds two tensors."""
    return node.target in _SUM and len(node.all_input_nodes) == len(node.args) == 2 and not node.kwargs


def read_module(name: str, layer: nn.Module) -> Operation | None:
    """What a module does, if it is known; None if not."""
    found: Operation | None = None
    match layer:
        case nn.ReLU():
            found = _relu()
        case nn.ReLU6():
            found = _relu6()
        case nn.Flatten() if (layer.start_dim, layer.end_dim) == (1, -1):
            found = _plain(partial(torch.flatten, start_dim=1), is_linear=True)
        case nn.GroupNorm() if layer.affine:
            found = _group_norm(name, layer)
        case nn.MaxPool1d() | nn.MaxPool2d() if not layer.return_indices:
            found = _plain(cast(Callable[..., Tensor], layer))
        case nn.AvgPool1d() | nn.AvgPool2d() | nn.AdaptiveAvgPool1d() | nn.AdaptiveAvgPool2d():
            found = _plain(cast(Callable[..., Tensor], layer), is_linear=True)
        case nn.Identity():
            found = _plain(lambda value: value, is_linear=True)
        case nn.Dropout() | nn.Dropout1d() | nn.Dropout2d() if not layer.p:
            found = _plain(lambda value: value, is_linear=True)
    return found


def _group_norm(name: str, layer: nn.GroupNorm) -> Operation:
    weight, bias = f"{name}.weight", f"{name}.bias"
    groups, epsilon = layer.num_groups, layer.eps
    return Operation(
        lambda value, own: F.group_norm(value, groups, own[weight], own[bias], epsilon),
        (weight, bias),
        layer.num_channels,
    )


def read_function(node: fx.Node) -> Operation | None:
    """What a function or method does with its first argument, if it is known; None if not."""
    arguments = dict(enumerate(node.args[1:])) | cast(dict[Any, Any], node.kwargs)
    arguments.pop("inplace", None)
    if node.target in _RELU and not arguments:
        return _relu()
    if node.target is F.relu6 and not arguments:
        return _relu6()
    if node.target in (torch.flatten, "flatten") and arguments in ({0: 1}, {"start_dim": 1}, {0: 1, 1: -1}):
        return _plain(partial(torch.flatten, start_dim=1), is_linear=True)
    if node.target in (torch.mean, "mean") and (dims := _places(arguments)):
        keep = bool(arguments.get(1, arguments.get("keepdim", False)))
        return _plain(partial(torch.mean, dim=dims, keepdim=keep), is_linear=True)
    if node.target is F.adaptive_avg_pool2d and arguments in ({0: 1}, {0: (1, 1)}):
        return _plain(partial(F.adaptive_avg_pool2d, output_size=1), is_linear=True)
    return None


def _places(arguments: dict[Any, Any]) -> tuple[int, ...]:
    """The dimensions of a mean over an image's or a window's places; none if it is over others."""
    dims = arguments.get(0, arguments.get("dim"))
    dims = tuple(dims) if isinstance(dims, tuple | list) else (dims,)
    known = set(arguments) <= {0, 1, "dim", "keepdim"}
    return dims if known and sorted(dims, key=str) in ([2, 3], [-1, -2], [2], [-1]) else ()
