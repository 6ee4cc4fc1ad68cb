"""PruneFL: masks follow what the model learns and what a weight costs, and what was pruned wrongly comes back.

Between rounds the server weighs each weight's squared gradient, the fall of the loss it promises, against its time.
Gradients at pruned coordinates come from `fedlite.gradients.dense_gradients`; a weight that comes back begins at 0,
which is what `tensors.apply_masks` left there. Source: Jiang et al. 2022, "Model Pruning Enables Efficient Federated
Learning on Edge Devices", cited below as Jiang.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.masks import Flat, split
from fedlite.compress.prune import check_sparsity, magnitude_masks, prunable, spread
from fedlite.compress.schedule import Gradients, check_dense, given
from fedlite.errors import SettingsError
from fedlite.types import Array, Masks, Params

Floats = NDArray[np.float64]


class Costs(NamedTuple):
    """The time of a round: `constant` + Σ over live weights of their layer's `per_weight`, a table of patterns.

    Any unit, all > 0. (Jiang: c and t_j)
    """

    constant: float
    per_weight: Mapping[str, float] = {"*": 1.0}


def readjust(
    params: Params,
    squares: Gradients,
    masks: Masks,
    costs: Costs,
    *,
    removable: float = 0.3,
    most_live: float = 1.0,
) -> dict[str, Flat]:
    """The masks whose next round lowers the loss most for its time: argmax Σ g² / (c + Σ t). (Jiang, Algorithm 1)

    `squares` holds g² for every learned tensor, summed or averaged alike over batches and clients. Fixed are the
    tensors without a mask and, within each layer, the largest live weights; up to the share `removable` of the live
    ones, the smallest, may go, and all pruned ones may come back. Those are taken in falling order of g² / t as
    long as each is above the ratio of all taken so far, which is then the largest there is, and at most
    `most_live` of the masked weights are live. Equals keep the order of tensors and C order. SettingsError for
    arguments that do not fit the params, costs that are not positive, shares outside [0, 1].
    """
    check_dense(params, squares, masks)
    times = _times(costs, masks)
    if not (0 <= removable <= 1 and 0 < most_live <= 1):
        raise SettingsError(f"removable is {removable}, most_live {most_live}; shares in [0, 1] are wanted")
    if not masks:
        return {}
    fixed = {name: _largest(params[name], mask, removable) for name, mask in masks.items()}
    taken = np.concatenate([each.ravel() for each in fixed.values()])
    gain = np.concatenate([squares[name].ravel() for name in masks]).astype(np.float64)
    time = np.concatenate([np.full(mask.size, times[name]) for name, mask in masks.items()])
    free = sum(float(g.sum(dtype=np.float64)) for n, g in squares.items() if n not in masks)
    room = max(0, int(most_live * taken.size) - int(np.count_nonzero(taken)))
    chosen = _best(gain, time, ~taken, free + float(gain[taken].sum()), costs.constant + time[taken].sum())
    taken[chosen[:room]] = True
    return split(taken, {name: params[name] for name in masks})


def full_masks(params: Params) -> dict[str, Flat]:
    """Masks that prune nothing yet: what the first client begins with."""
    return {name: np.ones(value.shape, np.bool_) for name, value in params.items() if prunable(name, value)}


def settled(live: Sequence[int], within: float = 0.1, times: int = 5) -> bool:
    """Whether the first client is done: its live weights changed by less than `within` of them, `times` in a row."""
    changes = [abs(after - before) < within * before for before, after in pairwise(live)]
    return len(changes) >= times and all(changes[-times:])


@dataclass(frozen=True)
class PruneFl:
    """A Pruner: `readjust` every `every` rounds until `until`, on the clients' squared gradients.

    It begins, where no masks are held, with the `initial` sparsity within each layer; those found at one client
    before the run (`initial_masks`) are better. The share that may go halves every `halving` rounds.
    """

    constant: float
    per_weight: tuple[tuple[str, float], ...] = (("*", 1.0),)
    initial: float = 0.0
    every: int = 10
    until: int = 2**31
    removable: float = 0.3
    halving: int = 1000
    most_live: float = 1.0

    def __post_init__(self) -> None:
        check_sparsity(self.initial)
        if self.every < 1 or self.halving < 1:
            raise SettingsError(
                f"every is {self.every}, halving {self.halving}; rounds, 1 or more, are wanted"
            )

    def wants_gradients(self, round_num: int) -> bool:
        """In the rounds that readjust: the mean over clients of the squared gradient."""
        return 0 < round_num <= self.until and round_num % self.every == 0

    def masks(self, round_num: int, params: Params, held: Masks, gradients: Gradients | None = None) -> Masks:
        """As Pruner; `gradients` are squared. SettingsError if a round that readjusts has none."""
        if not held:
            held = magnitude_masks(params, self.initial, scope="layer")
        if not self.wants_gradients(round_num):
            return held
        removable = self.removable * 0.5 ** (round_num / self.halving)
        costs = Costs(self.constant, dict(self.per_weight))
        squares = given(gradients, round_num)
        return readjust(params, squares, held, costs, removable=removable, most_live=self.most_live)


def _times(costs: Costs, masks: Masks) -> dict[str, float]:
    """Each masked layer's time per weight."""
    times = spread(costs.per_weight, masks) if masks else {}
    if missing := set(masks) - set(times):
        raise SettingsError(f"no cost is given for {sorted(missing)[:3]}; end the table with '*'")
    if not all(0 < each < math.inf for each in (costs.constant, *times.values())):
        raise SettingsError(f"costs are {costs}; positive numbers are wanted")
    return times


def _largest(value: Array, mask: Flat, removable: float) -> Flat:
    """The live weights without the int(removable · live) smallest, of which one at least stays."""
    live = int(np.count_nonzero(mask))
    goes = min(int(removable * live), max(live - 1, 0))
    size = np.where(mask, np.abs(value), np.inf).ravel()
    fixed = mask.ravel().copy()
    fixed[np.argsort(size, kind="stable")[:goes]] = False
    return fixed.reshape(mask.shape)


def _best(
    gain: Floats, time: Floats, candidates: Flat, sum_gain: float, sum_time: float
) -> NDArray[np.int64]:
    """Candidates in falling order of gain / time, up to the first that is not above the ratio before it."""
    places = np.flatnonzero(candidates)
    places = places[np.argsort(-gain[places] / time[places], kind="stable")]
    gains = sum_gain + np.concatenate([[0.0], np.cumsum(gain[places])[:-1]])
    times = sum_time + np.concatenate([[0.0], np.cumsum(time[places])[:-1]])
    above = gain[places] / time[places] > gains / times
    return places[: len(above) if above.all() else int(np.argmin(above))]
