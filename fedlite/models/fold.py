"""BatchNorm folded away: the same function without the norm, as it is deployed. (Jacob et al. 2018, §3.2)

y = γ (W·x − μ) / √(σ² + ε) + β is a convolution by W' = γ/√(σ² + ε) · W with the bias β − γ μ/√(σ² + ε).
"""

import itertools
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlite.errors import SettingsError
from fedlite.models.bridge import layout
from fedlite.models.factors import HadamardConv2d
from fedlite.models.norms import BatchNorm
from fedlite.models.registry import ModelSpec, skeleton
from fedlite.tensors import check_like
from fedlite.types import Array, Params, is_range


def fold_norms(spec: ModelSpec, params: Params) -> tuple[ModelSpec, dict[str, Array]]:
    """A model with norm = "batch" → its spec with norm = "none" and params of the same function, in evaluation.

    Equal to float32 rounding: products are taken in float64. Changes of layers are kept, but for sizes of the
    norms that are gone. Activation ranges, where there are any, stay: those of int8-aware params. A model
    without BatchNorm stays as it is. SettingsError for batch_stats = "none", which has no statistics;
    UpdateError if params do not fit the spec.
    """
    net = skeleton(spec)
    ranges = {name: value for name, value in params.items() if is_range(name)}
    given, params = params, {name: value for name, value in params.items() if not is_range(name)}
    check_like(params, layout(net), "params")
    norms = {name: layer for name, layer in net.named_modules() if isinstance(layer, BatchNorm)}
    if not norms:
        return spec, {name: value.copy() for name, value in given.items()}
    if any(layer.running_var is None for layer in norms.values()):
        raise SettingsError("batch_stats = 'none' keeps no statistics, so there is nothing to fold")
    folded = dict(params)
    for conv, norm in _pairs(net):
        folded |= _folded(net.get_submodule(conv), conv, norm, params, norms.pop(norm).eps)
    if norms:
        raise SettingsError(f"{next(iter(norms))!r} follows no convolution, so it cannot be folded into one")
    return _without_norms(spec, net, folded | ranges)


def _pairs(net: nn.Module) -> list[tuple[str, str]]:
    """(convolution, norm) by name: neighbours in a Sequential. Of a factorized convolution it is the last one."""
    found = []
    for path, parent in net.named_modules():
        children = list(parent.named_children()) if isinstance(parent, nn.Sequential) else []
        for (before, layer), (after, norm) in itertools.pairwise(children):
            if isinstance(norm, BatchNorm):
                conv = f"{before}.{len(layer) - 1}" if isinstance(layer, nn.Sequential) else before
                prefix = f"{path}." if path else ""
                found.append((prefix + conv, prefix + after))
    return found


def _folded(layer: nn.Module, conv: str, norm: str, params: Params, eps: float) -> dict[str, Array]:
    """The convolution's new weight and bias. Each row of a product of factors scales with its row of x1."""
    if not isinstance(layer, nn.Conv2d | HadamardConv2d):
        raise SettingsError(
            f"{norm!r} follows {type(layer).__name__} {conv!r}; only convolutions take a norm in"
        )
    gamma, beta, mean, var = (
        params[f"{norm}.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale: NDArray[np.float64] = gamma / np.sqrt(var + eps)
    name = f"{conv}.weight" if isinstance(layer, nn.Conv2d) else f"{conv}.x1"
    weight = params[name] * scale.reshape(-1, *[1] * (params[name].ndim - 1))
    return {name: weight.astype(np.float32), f"{conv}.bias": (beta - mean * scale).astype(np.float32)}


def _without_norms(spec: ModelSpec, net: nn.Module, folded: Params) -> tuple[ModelSpec, dict[str, Array]]:
    """The spec with norm = "none", and its params out of `folded`, in its own order."""
    gone = {name for name, layer in net.named_modules() if isinstance(layer, BatchNorm)}
    options = dict(spec.options) | {"norm": "none", "batch_stats": "averaged"}
    changes = tuple(each for each in spec.changes if each[1] not in gone)
    plain = replace(spec, options=tuple(sorted(options.items())), changes=changes)
    wanted = list(layout(skeleton(plain)))
    order = [
        name
        for path in dict.fromkeys(each.rpartition(".")[0] for each in wanted)
        for name in [*(each for each in wanted if each.rpartition(".")[0] == path), f"{path}.act_range"]
        if name in folded
    ]
    return plain, {name: folded[name].copy() for name in order}
