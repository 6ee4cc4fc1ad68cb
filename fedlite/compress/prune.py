"""Which single weights to prune, by magnitude. W' = W ⊙ M is `tensors.apply_masks`.

(Han et al. 2015, "Learning both Weights and Connections"; global against layerwise: Blalock et al. 2020, §2.3)
"""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.masks import Flat, pack_masks, split, unpack_masks
from fedlite.errors import SettingsError
from fedlite.types import Array, Masks, Params, is_statistic

__all__ = [
    "channel_masks",
    "keep_none",
    "magnitude_masks",
    "pack_masks",
    "prunable",
    "sparsity_of",
    "spread",
    "table_masks",
    "threshold_masks",
    "unpack_masks",
]

Value = TypeVar("Value")


def keep_none(name: str) -> bool:
    """Prune every tensor that may be pruned: the default of `magnitude_masks`."""
    return False


def magnitude_masks(
    params: Params,
    sparsity: float,
    *,
    scope: Literal["global", "layer"] = "global",
    keep: Callable[[str], bool] = keep_none,
    held: Masks | None = None,
) -> dict[str, NDArray[np.bool_]]:
    """Masks that prune the smallest weights; True is live.

    Only tensors of two dimensions or more are pruned, never biases, norms or statistics, nor a name for which
    `keep` says so. Of n weights, round(sparsity · n) go: over all tensors together ("global") or within each
    ("layer"). The largest weight of each tensor always stays, so a tensor is never empty and at most
    n − (tensors) go. Equal magnitudes go in the order of the tensors and, within one, of C order, so everyone
    computes the same bits from the same weights. What `held` masks prune stays pruned, and counts. SettingsError
    unless 0 ≤ sparsity < 1 and the weights are finite.
    """
    check_sparsity(sparsity)
    if scope not in ("global", "layer"):
        raise SettingsError(f"scope is {scope!r}; it must be global or layer")
    chosen = _chosen(params, keep)
    if not chosen:
        return dict(held or {})
    sizes = [_protected(value, (held or {}).get(name)) for name, value in chosen.items()]
    if scope == "layer":
        flat = np.concatenate([_smallest([each], sparsity) for each in sizes])
    else:
        flat = _smallest(sizes, sparsity)
    return _within(split(~flat, chosen), held)


def table_masks(
    params: Params, table: Mapping[str, float], *, held: Masks | None = None
) -> dict[str, NDArray[np.bool_]]:
    """As `magnitude_masks` within each layer, with a sparsity of its own: a recipe's table, pattern → sparsity.

    Patterns as `spread` reads them; a layer that none matches is not pruned. SettingsError for a pattern that
    matches no layer that may be pruned, a sparsity outside [0, 1), weights that are not finite.
    """
    chosen = _chosen(params, keep_none)
    for sparsity in table.values():
        check_sparsity(sparsity)
    found: dict[str, Flat] = {}
    for name, sparsity in spread(table, chosen).items():
        size = _protected(chosen[name], (held or {}).get(name))
        found[name] = ~_smallest([size], sparsity).reshape(chosen[name].shape)
    return _within({name: found[name] for name in chosen if name in found}, held)


def threshold_masks(
    params: Params,
    threshold: float | Mapping[str, float],
    *,
    unit: Literal["absolute", "deviation"] = "absolute",
    held: Masks | None = None,
) -> dict[str, NDArray[np.bool_]]:
    """Masks that prune every weight below a threshold; one threshold, or a table, pattern → threshold.

    In units of one ("absolute") or of the standard deviation of the layer's live weights ("deviation": Han et al.
    2015, §3, where the factor is called the quality parameter). The largest weight of each tensor stays.
    SettingsError for a threshold that is negative or not finite, else as `table_masks`.
    """
    table = threshold if isinstance(threshold, Mapping) else {"*": threshold}
    if unit not in ("absolute", "deviation"):
        raise SettingsError(f"unit is {unit!r}; it must be absolute or deviation")
    for pattern, value in table.items():
        if not 0 <= value < np.inf:
            raise SettingsError(f"threshold of {pattern!r} is {value}; a finite number, 0 or more, is wanted")
    chosen = _chosen(params, keep_none)
    masks = {}
    for name, value in spread(table, chosen).items():
        live = chosen[name][held[name]] if held and name in held else chosen[name]
        least = value * float(np.std(live, dtype=np.float64)) if unit == "deviation" else value
        masks[name] = (_protected(chosen[name], (held or {}).get(name)) >= least).reshape(chosen[name].shape)
    return _within({name: masks[name] for name in chosen if name in masks}, held)


def channel_masks(
    params: Params, scores: Mapping[str, NDArray[np.float64]], sparsity: float
) -> dict[str, NDArray[np.bool_]]:
    """Masks that prune round(sparsity · n) of a layer's n output channels, the lowest scores, weights and bias alike.

    `scores` is layer → (channels,), as fedlite.compress.activation.scores has them. One channel stays; equals go from
    the first. SettingsError for a layer that is not there, a score that is NaN or not for each channel, a sparsity
    outside [0, 1).
    """
    check_sparsity(sparsity)
    masks = {}
    for layer, score in scores.items():
        weight = params.get(f"{layer}.weight")
        if weight is None or score.shape != weight.shape[:1]:
            raise SettingsError(
                f"{len(score)} scores for the channels of layer {layer!r}, which has not as many"
            )
        if np.isnan(score).any():
            raise SettingsError(f"scores of layer {layer!r} hold NaN")
        live = np.ones(score.size, np.bool_)
        goes = min(round(sparsity * score.size), score.size - 1)
        live[np.argsort(score, kind="stable")[:goes]] = False
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in params:
                shape = params[name].shape
                masks[name] = np.broadcast_to(live.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()
    return {name: masks[name] for name in params if name in masks}


def spread(table: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    """Each name's value from a table, pattern → value: that of the first pattern that matches.

    A pattern is a name as the shell matches it (`features.*`, `*.weight`); `hidden` stands for `hidden.weight`
    too. Names that no pattern matches are left out. SettingsError, with some names, for a pattern without any.
    """
    names = list(names)
    found: dict[str, Value] = {}
    for pattern, value in table.items():
        here = [name for name in names if matches(name, pattern)]
        if not here:
            raise SettingsError(f"no layer is called {pattern!r}; there are {', '.join(names[:12])}")
        for name in here:
            found.setdefault(name, value)
    return found


def matches(name: str, pattern: str) -> bool:
    """Whether a tensor's or layer's name is meant by a pattern of `spread`."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.weight")


def prunable(name: str, value: Array) -> bool:
    """Whether a tensor is a weight matrix or kernel, the only kind that is pruned."""
    return value.ndim >= 2 and not is_statistic(name)


def check_sparsity(sparsity: float) -> None:
    """SettingsError unless 0 ≤ sparsity < 1."""
    if not 0 <= sparsity < 1:
        raise SettingsError(f"sparsity is {sparsity}; it must be in [0, 1)")


def check_weights(params: Params) -> None:
    """SettingsError, with the tensor's name, for a weight that is NaN or infinite: it has no rank among others."""
    for name, value in params.items():
        if not np.isfinite(value).all():
            raise SettingsError(
                f"{name!r} holds NaN or infinity, so its weights have no order to prune by",
                remedy="the training diverged: lower the learning rate, or take an earlier model",
            )


def sparsity_of(params: Params, masks: Masks) -> float:
    """The share of all learned weights, biases and norms included, that `masks` prune."""
    learned = sum(value.size for name, value in params.items() if not is_statistic(name))
    pruned = sum(mask.size - int(np.count_nonzero(mask)) for mask in masks.values())
    return pruned / learned


def _chosen(params: Params, keep: Callable[[str], bool]) -> dict[str, Array]:
    chosen = {name: value for name, value in params.items() if prunable(name, value) and not keep(name)}
    check_weights(chosen)
    return chosen


def _protected(value: Array, live: Flat | None) -> Array:
    """Magnitudes in C order, the largest made infinite so that it is never among the smallest, the pruned −1."""
    size = np.abs(value).ravel()
    if live is not None:
        size[~live.ravel()] = -1
    size[int(np.argmax(size))] = np.inf
    return size


def _smallest(sizes: list[Array], sparsity: float) -> Flat:
    """True for the round(sparsity · n) smallest, first index first among equals; infinite ones never."""
    flat = np.concatenate(sizes)
    count = min(round(sparsity * flat.size), flat.size - len(sizes))
    if count == 0:
        return np.zeros(flat.size, np.bool_)
    threshold = np.partition(flat, count - 1)[count - 1]
    pruned: Flat = flat < threshold
    ties = np.flatnonzero(flat == threshold)
    pruned[ties[: count - int(np.count_nonzero(pruned))]] = True
    return pruned


def _within(masks: Mapping[str, Flat], held: Masks | None) -> dict[str, Flat]:
    """What is live in both; masks of tensors that only one has as they are."""
    held = held or {}
    both = {name: mask & held[name] if name in held else mask for name, mask in masks.items()}
    return both | {name: mask for name, mask in held.items() if name not in masks}
