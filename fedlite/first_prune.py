"""PruneFL's first stage: one client with a little data finds the masks that everyone begins with.

Training on few data is enough to find a small model, and no other client has trained the large one. (Jiang et al. 2022,
"Model Pruning Enables Efficient Federated Learning on Edge Devices": initial pruning at a selected client)
"""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import nn

from fedlite.compress.prunefl import Costs, full_masks, readjust, settled
from fedlite.gradients import dense_gradients
from fedlite.seeds import derive
from fedlite.tensors import apply_masks, check_finite
from fedlite.train import local_train
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Masks, Params


@dataclass(frozen=True, eq=False)
class FirstPrune:
    """What the first client found: its weights, pruned; the masks; how many weights lived after each readjustment."""

    params: dict[str, Array]
    masks: Masks
    live: tuple[int, ...]


def first_prune(
    model: nn.Module,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    settings: TrainSettings,
    *,
    seed: int,
    costs: Costs,
    removable: float = 0.3,
    most_live: float = 1.0,
    most_times: int = 50,
) -> FirstPrune:
    """Train as `settings` say, readjust the masks by the squared gradients, and again until their size has settled.

    Settled as `prunefl.settled` has it, after `most_times` at the latest. Begins with all weights live. Raises as
    `local_train` and `readjust`; UpdateError if the training diverges.
    """
    masks: Masks = full_masks(params)
    live: list[int] = []
    while len(live) < most_times and not settled(live):
        stream = derive(seed, "first prune", len(live))
        params = local_train(model, params, x, y, settings, seed=stream, masks=masks).params
        check_finite(params, "the first client's model")
        squares = dense_gradients(model, params, x, y, masks, settings.bits, squared=True)
        masks = readjust(params, squares, masks, costs, removable=removable, most_live=most_live)
        params = apply_masks(params, masks)
        live.append(sum(int(mask.sum()) for mask in masks.values()))
    return FirstPrune(dict(params), masks, tuple(live))
