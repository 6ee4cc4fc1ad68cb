"""RigL: prune and recover at one sparsity. The smallest weights go, as many with the steepest gradients come.

Gradients at pruned coordinates come from `fedlite.gradients.dense_gradients`; a weight that comes begins at 0, which
is what `tensors.apply_masks` left there. Source: Evci et al. 2020, "Rigging the Lottery", cited below as Evci.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedlite.compress.masks import Flat
from fedlite.compress.prune import check_sparsity, prunable
from fedlite.compress.schedule import Gradients, check_dense, given
from fedlite.errors import SettingsError
from fedlite.seeds import generator
from fedlite.types import Array, Masks, Params


def rigl(params: Params, gradients: Gradients, masks: Masks, fraction: float) -> dict[str, Flat]:
    """Within each layer, the smallest live weights make room for as many with the largest |gradient|. (Evci, Alg. 1)

    round(fraction · live) go. A weight that just went may be chosen again, and then keeps its value. Equals go, or
    come, in C order. SettingsError for gradients or masks that do not fit the params, a fraction outside [0, 1].
    """
    check_dense(params, gradients, masks)
    if not 0 <= fraction <= 1:
        raise SettingsError(f"fraction to regrow is {fraction}; it must be in [0, 1]")
    return {
        name: _moved(params[name], gradients[name], mask, round(fraction * int(np.count_nonzero(mask))))
        for name, mask in masks.items()
    }


def regrow_fraction(round_num: int, end: int, alpha: float = 0.3) -> float:
    """f(t) = α/2 (1 + cos(π t / T)): α in round 0, 0 in round T = `end` and after. (Evci, equation 1)"""
    return alpha / 2 * (1 + math.cos(math.pi * round_num / end)) if round_num < end else 0.0


def erdos_renyi(params: Params, sparsity: float) -> dict[str, float]:
    """Sparsities of the layers that together give `sparsity`: Erdős–Rényi-Kernel. (Evci, §3, "Sparsity distribution")

    A layer's density is proportional to Σ of its dimensions / Π of them, kernel sizes included; layers that would be
    denser than dense are dense, and the others make up for it. SettingsError unless 0 ≤ sparsity < 1.
    """
    check_sparsity(sparsity)
    sizes = {name: value.size for name, value in params.items() if prunable(name, value)}
    raw = {name: sum(params[name].shape) / sizes[name] for name in sizes}
    dense: set[str] = set()
    while True:
        rest = (1 - sparsity) * sum(sizes.values()) - sum(sizes[name] for name in dense)
        weight = sum(raw[name] * sizes[name] for name in sizes if name not in dense)
        scale = rest / weight if weight else 0.0
        fuller = {name for name in sizes if name not in dense and scale * raw[name] >= 1}
        if not fuller:
            return {name: 0.0 if name in dense else 1 - scale * raw[name] for name in sizes}
        dense |= fuller


def random_masks(params: Params, sparsities: Mapping[str, float], seed: int) -> dict[str, Flat]:
    """Masks with round(sparsity · n) weights of each layer pruned at random; one stays. (Evci begins with these)

    The stream is (seed, "masks", name). SettingsError for a layer that may not be pruned or is not there.
    """
    masks: dict[str, Flat] = {}
    for name, sparsity in sparsities.items():
        check_sparsity(sparsity)
        if name not in params or not prunable(name, params[name]):
            raise SettingsError(f"{name!r} is no weight of the model that may be pruned")
        size = params[name].size
        pruned = generator(seed, "masks", name).permutation(size)[: min(round(sparsity * size), size - 1)]
        live = np.ones(size, np.bool_)
        live[pruned] = False
        masks[name] = live.reshape(params[name].shape)
    return masks


@dataclass(frozen=True)
class RigL:
    """A Pruner: random masks of a constant sparsity, then `rigl` every `every` rounds before `end`.

    `erk` gives layers their densities by `erdos_renyi`, else all have the same.
    """

    sparsity: float
    end: int
    seed: int
    every: int = 1
    alpha: float = 0.3
    erk: bool = True

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if self.every < 1 or self.end < 1 or not 0 <= self.alpha <= 1:
            raise SettingsError(
                f"every is {self.every}, end {self.end}, alpha {self.alpha}; 1 or more, twice, and a share wanted"
            )

    def wants_gradients(self, round_num: int) -> bool:
        """In the rounds that regrow: the mean gradient over clients."""
        return 0 < round_num < self.end and round_num % self.every == 0

    def masks(self, round_num: int, params: Params, held: Masks, gradients: Gradients | None = None) -> Masks:
        """As Pruner. SettingsError if a round that regrows has no gradients."""
        if not held:
            flat = {name: self.sparsity for name, value in params.items() if prunable(name, value)}
            return random_masks(params, erdos_renyi(params, self.sparsity) if self.erk else flat, self.seed)
        if not self.wants_gradients(round_num):
            return held
        fraction = regrow_fraction(round_num, self.end, self.alpha)
        return rigl(params, given(gradients, round_num), held, fraction)


def _moved(value: Array, gradient: Array, mask: Flat, count: int) -> Flat:
    """The mask with `count` of its smallest weights gone and the `count` steepest of what is then pruned added."""
    size = np.where(mask, np.abs(value), np.inf).ravel()
    live = mask.ravel().copy()
    live[np.argsort(size, kind="stable")[:count]] = False
    slope = np.where(live, -1, np.abs(gradient).ravel())
    live[np.argsort(-slope, kind="stable")[:count]] = True
    return live.reshape(mask.shape)
