"""Low rank: a trained layer's weight as a product of two, and layers that are trained as products from the start.

| function | what it does |
|---|---|
| factorize | SVD of dense and convolution layers to a rank, a share of the energy, or a number of parameters |
| fedpara | a spec whose layers are FedPara's, for a fresh start: fewer numbers travel, the rank can still be full |
| merge | the plain network of either, for a device that is not to multiply factors in every step |

The factors are ordinary layers: training goes on with `local_train`, at 32 bits or rounding. FedPara's are not: they
stay float32 where others round, so merge them before an integer file is made. A convolution of o kernels is taken as
a matrix of o rows and i·h·w columns. (Denton et al. 2014, §3; what is lost: Eckart & Young 1936)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlite.compress import quantize
from fedlite.errors import SettingsError
from fedlite.models.bridge import layout
from fedlite.models.changes import Change, layer_of
from fedlite.models.factors import FACTORED
from fedlite.models.registry import ModelSpec, skeleton
from fedlite.tensors import check_finite, check_like
from fedlite.types import Array, Params

RANGE = ".act_range"  # of a layer that rounds its input
EXACT = 1e-12  # a smaller share of the energy is float32's own rounding

Number = TypeVar("Number", int, float)


class Parts(NamedTuple):
    """A weight as left · diag(values) · right, in float64; values fall."""

    left: NDArray[np.float64]  # (rows, k)
    values: NDArray[np.float64]  # (k,)
    right: NDArray[np.float64]  # (k, columns)

    @property
    def columns(self) -> int:
        """Of the weight."""
        return int(self.right.shape[1])

    @property
    def cost(self) -> int:
        """Parameters that one more rank takes."""
        return len(self.left) + self.columns

    @property
    def dense(self) -> int:
        """Parameters of the weight itself."""
        return len(self.left) * self.columns

    def rank_for(self, energy: float) -> int:
        """The least rank, ≥ 1, that keeps this share of Σ σ²."""
        kept = np.cumsum(self.values**2)
        return int((kept < (energy - EXACT) * kept[-1]).sum()) + 1

    def size_at(self, rank: int) -> int:
        """Parameters at this rank; the dense weight's where that is no more."""
        return min(self.dense, rank * self.cost)


def factorize(
    spec: ModelSpec,
    params: Params,
    *,
    rank: int | Mapping[str, int] | None = None,
    energy: float | Mapping[str, float] | None = None,
    parameters: int | None = None,
    layers: Sequence[str] = (),
) -> tuple[ModelSpec, dict[str, Array]]:
    """(spec with rank changes, its params): `<layer>.0.weight`, `<layer>.1.weight`, `<layer>.1.bias`.

    One of three says how far. `rank`: of each layer, ≥ 1. `energy`: the share of squared singular values that is
    kept, in (0, 1]; what is left of 1 is the weight's relative squared error. `parameters`: of the whole model;
    every layer then keeps the same, largest possible share. The first two can be {layer: value}; else `layers`
    are meant, by default every Linear and every Conv2d without groups. A layer that would not get smaller stays.

    SettingsError for a layer that is not there or has no factors, or a value outside its range; UpdateError for
    params that do not fit or are not finite.
    """
    net = _checked(spec, params)
    if sum(each is not None for each in (rank, energy, parameters)) != 1:
        raise SettingsError("how far to factorize is said by one of rank, energy and parameters")
    named = rank if isinstance(rank, Mapping) else energy if isinstance(energy, Mapping) else None
    names = list(layers or _plain_layers(spec, net) if named is None else named)
    parts = {name: _svd(params[f"{name}.weight"]) for name in names if _plain(net, name)}
    if parameters is not None:
        total = sum(value.size for name, value in params.items() if not name.endswith(RANGE))
        energy = _common_energy(parts, parameters - total + sum(each.dense for each in parts.values()))
    if energy is not None:
        ranks = {name: each.rank_for(_share(name, _of(energy, name))) for name, each in parts.items()}
    if rank is not None:
        ranks = {name: _whole(name, _of(rank, name), each) for name, each in parts.items()}
    return _split(spec, params, {name: (parts[name], r) for name, r in ranks.items()})


def fedpara(spec: ModelSpec, *, gamma: float = 0.1, layers: Sequence[str] = ()) -> ModelSpec:
    """`spec` with FedPara layers; begin from `initial_params`. gamma in [0, 1] says how large they are.

    The rank is (1 − γ) · least + γ · most: least = ⌈√min(m, n)⌉, from where W can have full rank, and most the
    largest with 2 r (m + n) ≤ m n. (Hyeon-Woo et al. 2022, §2.2 and Corollary 1) Without `layers`, every Linear and
    every Conv2d without groups that gets smaller; a layer that is named and would not is a SettingsError.
    """
    if not 0 <= gamma <= 1:
        raise SettingsError(f"gamma is {gamma}; 0 to 1 wanted")
    net = skeleton(spec)
    ranks = {name: _fedpara_rank(_plain(net, name), gamma) for name in layers or _plain_layers(spec, net)}
    if large := [name for name in layers if not ranks[name]]:
        raise SettingsError(f"layer {large[0]!r} would not get smaller as FedPara's", remedy="leave it out")
    return replace(spec, changes=spec.changes + tuple(("fedpara", n, (r,)) for n, r in ranks.items() if r))


def merge(
    spec: ModelSpec, params: Params, kinds: Sequence[str] = FACTORED
) -> tuple[ModelSpec, dict[str, Array]]:
    """(spec, params) of the same function with the rank and fedpara layers, or one kind of them, multiplied out.

    Of a model that rounds, a layer in a row keeps its input's range, and one of FedPara's, which rounded nothing,
    gets (0, 0): none yet. UpdateError for params that do not fit.
    """
    _checked(spec, params)
    values, rounds = dict(params), _rounds(params)
    while found := [change for change in spec.changes if change[0] in kinds]:
        spec, values = _merged(spec, found[-1], values)
    return spec, _in_order(spec, values, rounds)


def _checked(spec: ModelSpec, params: Params) -> nn.Module:
    """The network's layers. UpdateError unless params are its own."""
    net = skeleton(spec)
    check_like(params, layout(quantize.at(net, 8) if _rounds(params) else net), "params")
    check_finite(params, "params")
    return net


def _plain_layers(spec: ModelSpec, net: nn.Module) -> list[str]:
    """Names of the layers that factorize by default; a layer that is a factor already is not among them."""
    products = {name for kind, name, _ in spec.changes if kind == "rank"}
    return [
        name
        for name, layer in net.named_modules()
        if _factorizes(layer) and name.rpartition(".")[0] not in products
    ]


def _factorizes(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _plain(net: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    """The layer of that name. SettingsError if there is none, or none that has factors."""
    layer = layer_of(net, name)
    if not isinstance(layer, nn.Linear | nn.Conv2d) or not _factorizes(layer):
        raise SettingsError(
            f"layer {name!r} is a {type(layer).__name__}; a Linear, or a Conv2d without groups, has factors"
        )
    return layer


def _of(value: Number | Mapping[str, Number], name: str) -> Number:
    return value[name] if isinstance(value, Mapping) else value


def _share(name: str, energy: float) -> float:
    if not 0 < energy <= 1:
        raise SettingsError(f"energy of {name!r} is {energy}; above 0 and up to 1 wanted")
    return energy


def _whole(name: str, rank: int, parts: Parts) -> int:
    if type(rank) is not int or rank < 1:
        raise SettingsError(f"rank of {name!r} is {rank!r}; a whole number from 1 wanted")
    return min(rank, len(parts.values))


def _svd(weight: Array) -> Parts:
    rows = weight.astype(np.float64).reshape(len(weight), -1)
    return Parts(*np.linalg.svd(rows, full_matrices=False))


def _common_energy(parts: Mapping[str, Parts], budget: int) -> float:
    """The largest share of the energy that all weights can keep within `budget` parameters, to 1e-6."""
    least = sum(each.size_at(1) for each in parts.values())
    if budget < least:
        raise SettingsError(
            f"with every layer at rank 1 the model is still {least - budget} parameters too large",
            remedy="allow more parameters, or name more layers",
        )
    low, high = 0.0, 1.0  # low fits: at no energy every rank is 1
    if sum(each.size_at(each.rank_for(1.0)) for each in parts.values()) <= budget:
        return 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        fits = sum(each.size_at(each.rank_for(middle)) for each in parts.values()) <= budget
        low, high = (middle, high) if fits else (low, middle)
    return max(low, 1e-9)


def _split(
    spec: ModelSpec, params: Params, wanted: Mapping[str, tuple[Parts, int]]
) -> tuple[ModelSpec, dict[str, Array]]:
    """Each layer that gets smaller as two: √σ goes to either, so that both learn at one rate."""
    net, values, changes = skeleton(spec), dict(params), list[Change]()
    for name, (parts, rank) in wanted.items():
        if parts.size_at(rank) == parts.dense:
            continue
        changes.append(("rank", name, (rank,)))
        root = np.sqrt(parts.values[:rank])
        shape, flat = values[f"{name}.weight"].shape, isinstance(_plain(net, name), nn.Linear)
        first, last = root[:, None] * parts.right[:rank], parts.left[:, :rank] * root
        values[f"{name}.0.weight"] = first.reshape(rank, *shape[1:]).astype(np.float32)
        values[f"{name}.1.weight"] = last.reshape(*last.shape, *([] if flat else [1, 1])).astype(np.float32)
        for old, new in (("bias", "1.bias"), ("act_range", "0.act_range")):
            if f"{name}.{old}" in values:
                values[f"{name}.{new}"] = values[f"{name}.{old}"]
    changed = replace(spec, changes=(*spec.changes, *changes))
    return changed, _in_order(changed, values, _rounds(params))


def _fedpara_rank(layer: nn.Linear | nn.Conv2d, gamma: float) -> int:
    """0 where no rank that can be full makes the layer smaller."""
    rows, columns = layer.weight.shape[0], layer.weight[0].numel()
    least, most = math.ceil(math.sqrt(min(rows, columns))), rows * columns // (2 * (rows + columns))
    return round((1 - gamma) * least + gamma * most) if least <= most else 0


def _merged(spec: ModelSpec, change: Change, values: dict[str, Array]) -> tuple[ModelSpec, dict[str, Array]]:
    """One product multiplied out, in float64; what structured pruning took from its factors stays away."""
    kind, name, _ = change
    inside = [("size", f"{name}.{which}") for which in (0, 1)]
    spec = replace(spec, changes=tuple(c for c in spec.changes if c != change and c[:2] not in inside))
    own = {n.removeprefix(f"{name}."): v for n, v in values.items() if n.startswith(f"{name}.")}
    values = {n: v for n, v in values.items() if not n.startswith(f"{name}.")}
    plain = _plain(skeleton(spec), name)
    try:
        weight = _product(kind, own, tuple(plain.weight.shape))
    except KeyError as error:
        raise SettingsError(f"a factor of {name!r} is a product itself: merge both kinds") from error
    if weight.shape != plain.weight.shape:
        size = (*weight.shape[:2], 1) if weight.ndim == 4 else weight.shape
        spec = replace(spec, changes=(*spec.changes, ("size", name, size)))
    values[f"{name}.weight"] = weight
    for old, new in (("bias", "bias"), ("1.bias", "bias"), ("0.act_range", "act_range")):
        if old in own:
            values[f"{name}.{new}"] = own[old]
    return spec, values


def _product(kind: str, own: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    """The weight that the factors `own` stand for; `shape` is that of a fedpara layer's. KeyError without them."""
    wide = {name: value.astype(np.float64) for name, value in own.items()}
    if kind == "rank":
        first, last = wide["0.weight"], wide["1.weight"]
        flat = last.reshape(len(last), -1) @ first.reshape(len(first), -1)
        return flat.reshape(-1, *first.shape[1:]).astype(np.float32)
    flat = (wide["x1"] @ wide["y1"].T) * (wide["x2"] @ wide["y2"].T)
    return flat.reshape(shape).astype(np.float32)


def _rounds(params: Params) -> bool:
    return any(name.endswith(RANGE) for name in params)


def _in_order(spec: ModelSpec, values: Params, rounds: bool) -> dict[str, Array]:
    """The values that the network of `spec` has, in its own order; a range that was never measured is (0, 0)."""
    net = skeleton(spec)
    wanted = layout(quantize.at(net, 8) if rounds else net)
    return {
        name: values[name] if name in values or not name.endswith(RANGE) else np.zeros(2, np.float32)
        for name in wanted
    }
