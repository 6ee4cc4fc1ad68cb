"""Units of a network whose layers follow each other: which nothing reads, and the network without some of them.

Such a chain is a list of weights (outputs, inputs, …) with their biases, where the inputs of each are the outputs of
the one before, each as often as it has places (a convolution's channel has height × width of them after flattening).
A unit is an output of any layer but the last.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.types import Array, Masks, Params

Kept = Mapping[str, NDArray[np.int64]]  # layer → the outputs that stay, ascending

CHAINS = ("linear", "mlp", "2nn", "cnn", "lenet_300_100", "lenet5")  # families that are one


def layers_of(params: Params) -> list[str]:
    """The layers of a chain, in order. SettingsError if sizes do not fit each other."""
    names = [name.removesuffix(".weight") for name, value in params.items() if value.ndim >= 2]
    for before, after in pairwise(names):
        outputs, inputs = params[f"{before}.weight"].shape[0], params[f"{after}.weight"].shape[1]
        if inputs % outputs:
            raise SettingsError(
                f"{after!r} takes {inputs} inputs, which {outputs} outputs of {before!r} are not"
            )
    return names


def strongest(params: Params, counts: Sequence[tuple[str, int]]) -> dict[str, NDArray[np.int64]]:
    """The units to keep: in each layer named the `count` of largest |weights in| · |weights out|, all elsewhere.

    SettingsError for a layer that is not there or is the last, or a count that is not 1 … its units.
    """
    names, wanted = layers_of(params), dict(counts)
    for name, count in wanted.items():
        if name not in names[:-1]:
            raise SettingsError(f"no units of a layer {name!r} can go; there are {', '.join(names[:-1])}")
        if not 1 <= count <= (most := len(params[f"{name}.weight"])):
            raise SettingsError(f"{count} units of {name!r} are to stay; it must be 1 to {most}")
    kept = {}
    for name, reader in zip(names, [*names[1:], ""], strict=True):
        weight = params[f"{name}.weight"]
        order = np.arange(len(weight))
        if name in wanted:
            strength = _norm(weight) * _norm(_by_unit(params[f"{reader}.weight"], len(weight)))
            order = np.sort(np.argsort(-strength, kind="stable")[: wanted[name]])
        kept[name] = order
    return kept


def narrow(params: Params, kept: Kept) -> dict[str, Array]:
    """The smaller network's weights: only kept outputs, and only the inputs that come from kept ones."""
    return {name: np.ascontiguousarray(params[name][where]) for name, where in _places(params, kept)}


def widen(small: Mapping[str, NDArray[Any]], kept: Kept, like: Params) -> dict[str, NDArray[Any]]:
    """The opposite: what `narrow` left, at its place in arrays shaped as `like`, zeros (False) elsewhere."""
    wide = {}
    for name, where in _places(like, kept):
        wide[name] = np.zeros(like[name].shape, small[name].dtype)
        wide[name][where] = small[name]
    return wide


def sizes(small: Params) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """The `size` changes (fedlite.models.changes) that make a spec's network this small; no groups."""
    found = []
    for name in layers_of(small):
        outputs, inputs, *places = small[f"{name}.weight"].shape
        found.append(("size", name, (outputs, inputs, 1) if places else (outputs, inputs)))
    return tuple(found)


def tidied(params: Params, masks: Masks) -> dict[str, NDArray[np.bool_]]:
    """Masks, biases included, without what the network's answers do not depend on.

    A unit that no live weight reads loses its own weights and its bias, from the last layer back.
    """
    names = layers_of(params)
    live = {name: masks.get(name, np.ones(value.shape, np.bool_)).copy() for name, value in params.items()}
    for name, reader in reversed(list(pairwise(names))):
        units = len(params[f"{name}.weight"])
        unread = ~_by_unit(live[f"{reader}.weight"], units).any(1)
        for tensor in (f"{name}.weight", f"{name}.bias"):
            if tensor in live:
                live[tensor][unread] = False
    return live


def _by_unit(weight: NDArray[Any], units: int) -> NDArray[Any]:
    """What reads each unit of the layer before, (units, weights)."""
    return np.moveaxis(weight.reshape(len(weight), units, -1), 1, 0).reshape(units, -1)


def _norm(rows: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(rows.reshape(len(rows), -1).astype(np.float64), axis=1))


def _places(params: Params, kept: Kept) -> Iterator[tuple[str, tuple[NDArray[np.int64], ...]]]:
    """(name, index of what stays) for every tensor of the large network."""
    inputs: dict[str, NDArray[np.int64]] = {}
    names = layers_of(params)
    for before, after in pairwise(names):
        places = params[f"{after}.weight"].shape[1] // len(params[f"{before}.weight"])
        inputs[after] = (kept[before][:, None] * places + np.arange(places)).ravel()
    for name, value in params.items():
        layer = name.rpartition(".")[0]
        if value.ndim >= 2 and layer in inputs:
            yield name, np.ix_(kept[layer], inputs[layer])
        else:
            yield name, (kept[layer],)
