"""Structured pruning: whole channels go, and the network is physically smaller and faster.

What is left is named by the new spec's `changes`, so `build(spec)` makes it and a model file holds it. The output
layer and the input's channels stay. Fine-tune afterwards: but where what went was zero, the function is the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.compress.activation import activity, scores
from fedlite.compress.channels import WEIGHTED, Group, Indices, Use, check_params, groups_of, without
from fedlite.compress.prune import check_weights, matches
from fedlite.errors import DataError, SettingsError
from fedlite.gradients import dense_gradients
from fedlite.models.bridge import layout
from fedlite.models.registry import ModelSpec, build, skeleton
from fedlite.types import Array, Params

Importance = Literal["magnitude", "taylor", "apoz", "activation"]
Data = tuple[NDArray[Any], NDArray[Any]]  # calibration: x and labels, which only "taylor" reads
Scores = dict[str, NDArray[np.float64]]  # root → (channels,)


def prune_channels(
    spec: ModelSpec,
    params: Params,
    ratio: float | Mapping[str, float],
    *,
    importance: Importance = "magnitude",
    data: Data | None = None,
    keep: Sequence[str] = (),
    round_to: int = 1,
    whole_groups: bool = False,
) -> tuple[ModelSpec, dict[str, Array]]:
    """The model without the least important share `ratio` of the channels of each layer, and its weights.

    `ratio` is one for all layers or a table, pattern of a layer's name → ratio; layers whose channels hang together
    (a shortcut, a depthwise convolution) have one ratio, that of the first pattern that means any of them. `keep`
    holds patterns of layers that lose none. Widths become multiples of `round_to`, where that leaves a layer fewer
    channels than it had. Every group of a GroupNorm loses as many channels; with `whole_groups` it goes whole or
    stays, and what is left is normalised as before.

    Importance of a channel is the norm of the weights that make it, relative to the layer's mean, times that of the
    norm that scales it, times that of the weights that read it ("magnitude": a factor moved from one layer to the next
    changes nothing; several of a kind count by their mean); Σ (g w)² over all those weights ("taylor": Molchanov et
    al. 2019, equation 8); 1 − APoZ or the mean after the ReLU ("apoz", "activation": Hu et al. 2016), and magnitude
    where no ReLU follows. The last three need `data`. Equals go from the end.

    SettingsError for a ratio outside [0, 1) or one that would empty a layer, a layer that is not there, a model that
    cannot be pruned so, weights that are not finite; DataError without data; UpdateError for params of another model.
    """
    groups = groups_of(spec)
    ratios = _ratios(groups, ratio, keep)
    ranks = _importance(spec, params, groups, importance, data)
    dropped = {g.root: _least(g, ranks[g.root], ratios[g.root], round_to, whole_groups, 0) for g in groups}
    return without(spec, params, groups, dropped)


def to_budget(
    spec: ModelSpec,
    params: Params,
    *,
    params_ratio: float = 1.0,
    macs_ratio: float = 1.0,
    importance: Importance = "magnitude",
    data: Data | None = None,
    keep: Sequence[str] = (),
    round_to: int = 1,
    whole_groups: bool = False,
) -> tuple[ModelSpec, dict[str, Array]]:
    """The largest model of one ratio for all layers with at most these shares of parameters and of MACs.

    The ratio is found by halving, to 1/4096; no layer or group of a norm loses its last channel. SettingsError for
    shares outside (0, 1], or where the smallest model is too large still; else as `prune_channels`.
    """
    if not (0 < params_ratio <= 1 and 0 < macs_ratio <= 1):
        raise SettingsError(f"shares are {params_ratio} and {macs_ratio}; above 0, at most 1 wanted")
    groups = groups_of(spec)
    ranks = _importance(spec, params, groups, importance, data)
    positions = _positions(spec)
    whole = _cost(spec, positions)

    def made(ratio: float) -> tuple[ModelSpec, dict[str, Array], float]:
        each = _ratios(groups, ratio, keep)
        dropped = {g.root: _least(g, ranks[g.root], each[g.root], round_to, whole_groups, 1) for g in groups}
        smaller, left = without(spec, params, groups, dropped)
        shares = [now / was for now, was in zip(_cost(smaller, positions), whole, strict=True)]
        return smaller, left, max(shares[0] / params_ratio, shares[1] / macs_ratio)

    low, high, best = 0.0, 1 - 2**-12, made(1 - 2**-12)
    if best[2] > 1:
        raise SettingsError(
            f"the smallest model has {best[2]:.2f} times the budget of {params_ratio} parameters, {macs_ratio} MACs"
        )
    while high - low > 2**-12:
        found = made((low + high) / 2)
        if found[2] <= 1:
            high, best = (low + high) / 2, found
        else:
            low = (low + high) / 2
    full = made(0.0)
    return full[:2] if full[2] <= 1 else best[:2]


def cost_of(spec: ModelSpec) -> tuple[int, int]:
    """(parameters, MACs of one example) of a network that these functions prune. Computes nothing, takes no memory."""
    return _cost(spec, _positions(spec))


def _cost(spec: ModelSpec, positions: Mapping[str, int]) -> tuple[int, int]:
    module = skeleton(spec)
    macs = sum(count * module.get_parameter(f"{name}.weight").numel() for name, count in positions.items())
    return sum(each.numel() for each in module.parameters()), macs


def _positions(spec: ModelSpec) -> dict[str, int]:
    """At how many places of one example each layer of weights is applied: pruning channels does not change it."""
    module = skeleton(spec).eval()
    found: dict[str, int] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, WEIGHTED):

            def note(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                found[name] = output[0].numel() // module.get_parameter(f"{name}.weight").shape[0]

            layer.register_forward_hook(note)
    shape = cast("tuple[int, ...]", dict(spec.options)["input_shape"])
    with torch.no_grad():
        module(torch.empty(1, *shape, device="meta"))
    return found


def _ratios(
    groups: Sequence[Group], ratio: float | Mapping[str, float], keep: Sequence[str]
) -> dict[str, float]:
    """Each group's ratio, checked."""
    table = {**dict.fromkeys(keep, 0.0), **(ratio if isinstance(ratio, Mapping) else {"*": ratio})}
    found: dict[str, float] = {}
    for pattern, value in table.items():
        if not 0 <= value < 1:
            raise SettingsError(f"ratio of {pattern!r} is {value}; it must be in [0, 1)")
        meant = [g.root for g in groups if any(matches(layer, pattern) for layer in g.layers)]
        if not meant and pattern != "*":
            some = ", ".join([g.root for g in groups][:12])
            raise SettingsError(f"no layer called {pattern!r} can lose channels; those that can are {some}")
        for root in meant:
            found.setdefault(root, value)
    return {g.root: found.get(g.root, 0.0) for g in groups}


def _importance(
    spec: ModelSpec, params: Params, groups: Sequence[Group], kind: Importance, data: Data | None
) -> Scores:
    if kind not in get_args(Importance):
        raise SettingsError(f"importance is {kind!r}; there are {', '.join(get_args(Importance))}")
    check_weights(params)
    check_params(skeleton(spec), params)
    magnitude = {group.root: _by_weights(group, params) for group in groups}
    if kind == "magnitude":
        return magnitude
    if data is None:
        raise DataError(f"importance {kind!r} needs calibration data", remedy="give some, or use magnitude")
    model = build(spec)
    shapes = layout(model)
    plain = {name: value for name, value in params.items() if name in shapes}
    if kind == "taylor":
        slopes = dense_gradients(model, plain, *data)
        return {g.root: _by_slope(g, params, slopes) for g in groups}
    heard = scores(activity(model, plain, data[0]), kind)
    return {g.root: _by_activity(g, heard, magnitude[g.root]) for g in groups}


def _by_weights(group: Group, params: Params) -> NDArray[np.float64]:
    """Π over the kinds of uses of the mean relative norm."""
    kinds: dict[str, list[NDArray[np.float64]]] = {}
    for use in group.uses:
        norm = np.sqrt(_along(group, use, params[f"{use.layer}.weight"] ** 2))
        kinds.setdefault(use.kind, []).append(norm / (norm.mean() or 1.0))
    found: NDArray[np.float64] = np.prod([np.mean(norms, 0) for norms in kinds.values()], 0)
    return found


def _by_slope(group: Group, params: Params, slopes: Params) -> NDArray[np.float64]:
    total = np.zeros(group.count)
    for use in group.uses:
        name = f"{use.layer}.weight"
        total += _along(group, use, (params[name] * slopes[name]) ** 2)
    return total


def _along(group: Group, use: Use, values: Array) -> NDArray[np.float64]:
    """Σ of the values that each channel of the group has in this layer."""
    axis = int(use.inputs)
    sums = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).sum(1, dtype=np.float64)
    found = np.zeros(group.count)
    np.add.at(found, use.channels, sums[use.places])
    return found


def _by_activity(group: Group, heard: Scores, otherwise: NDArray[np.float64]) -> NDArray[np.float64]:
    found = [use for use in group.uses if not use.inputs and use.layer in heard]
    total = np.zeros(group.count)
    for use in found:
        total[use.channels] += heard[use.layer][use.places]
    return total if found else otherwise


def _least(
    group: Group, rank: NDArray[np.float64], ratio: float, round_to: int, whole: bool, least: int
) -> Indices:
    """The channels that go: as many of each cell, or whole cells. `least` is how many stay though the ratio says 0."""
    cells = [np.flatnonzero(group.cells == cell) for cell in range(int(group.cells.max()) + 1)]
    if whole and len(cells) > 1:
        kept = _kept(group.root, len(cells), ratio, 1, least)
        order = np.argsort([-rank[cell].mean() for cell in cells], kind="stable")
        return np.sort(np.concatenate([np.zeros(0, np.int64), *(cells[place] for place in order[kept:])]))
    step = round_to // int(np.gcd(round_to, len(cells)))
    gone = []
    for cell in cells:
        kept = _kept(group.root, len(cell), ratio, step, least)
        gone.append(cell[np.argsort(-rank[cell], kind="stable")[kept:]])
    return np.sort(np.concatenate(gone))


def _kept(root: str, count: int, ratio: float, step: int, least: int) -> int:
    """How many of `count` stay: (1 − ratio) of them to the nearest multiple of `step`, half upwards."""
    kept = min(count, max(int((1 - ratio) * count / step + 0.5), least) * step)
    if kept == 0:
        raise SettingsError(f"ratio {ratio} would empty layer {root!r}, or a group of its norm, of {count}")
    return kept
