"""Which layers and channels pay: chosen on a batch of data, under a budget of memory and of computation."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.errors import SettingsError
from fedlite.int8_training.passes import Needs, backward, forward
from fedlite.int8_training.plan import Plan, read_plan
from fedlite.int8_training.sparse import SparseUpdate, saved_bytes
from fedlite.int8_training.train import begin, loss_slope
from fedlite.models.registry import ModelSpec
from fedlite.train_settings import TrainSettings
from fedlite.types import Params

Gains = dict[str, NDArray[np.float64]]


def choose_update(
    model: nn.Module | ModelSpec,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    budget_bytes: int,
    *,
    batch_size: int = 16,
    compute: float = 1.0,
) -> SparseUpdate:
    """What learns when a batch of `batch_size` may save `budget_bytes`, and `compute` in (0, 1] of what weight
    gradients cost may be spent.

    It begins as deep as the budget allows. Of the weights' output channels above, those with the most gradient
    norm² per product learn, until `compute` of the products is used; biases and norms always do. (x, y) are the
    examples on which gradients are measured, all in one batch; 16 to 64 will do. SettingsError if not even the
    head fits, with what it needs.
    """
    if not 0 < compute <= 1:
        raise SettingsError(f"compute is {compute}; a share above 0, at most 1 wanted")
    plan = read_plan(model, x.shape[1:])
    allowed = _deepest(plan, budget_bytes, batch_size)
    if compute == 1:
        return SparseUpdate(allowed)
    return _paying(plan, allowed, contributions(plan, params, x, y, allowed), compute)


def contributions(
    plan: Plan, params: Params, x: NDArray[Any], y: NDArray[Any], tensors: tuple[str, ...]
) -> Gains:
    """Gradient norm² of every output channel, (channels,), of each of the tensors; one batch."""
    state, found = begin(params, {}, plan), dict[str, NDArray[np.float64]]()

    def take(name: str, rows: slice, gradient: Tensor) -> None:
        own = found.setdefault(name, np.zeros(len(params[name])))
        own[rows] += gradient.reshape(len(gradient), -1).double().square().sum(1).numpy()

    needs = Needs.of(plan, frozenset(tensors))
    logits, kept = forward(plan, state, torch.from_numpy(x), needs)
    labels = torch.from_numpy(y).to(torch.int64)
    _, slope = loss_slope(logits, labels, TrainSettings(bits=8), None)
    backward(plan, state, kept, slope, needs, take)
    return found


def _deepest(plan: Plan, budget_bytes: int, batch_size: int) -> tuple[str, ...]:
    """All tensors from the deepest step on whose saved bytes fit the budget."""
    best: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    for step in reversed(plan.steps):
        if not step.tensors:
            continue
        names = step.tensors + names
        need = saved_bytes(plan, SparseUpdate(names), batch_size)
        if need > budget_bytes:
            if not best:
                raise SettingsError(
                    f"the budget is {budget_bytes} bytes; at batch {batch_size} the head alone saves {need}",
                    remedy="allow more memory, or take a smaller batch",
                )
            break
        best = names
    return best


def _paying(plan: Plan, allowed: tuple[str, ...], gains: Gains, compute: float) -> SparseUpdate:
    """The channels with the highest gain per product, until `compute` of all products is used; one at least."""
    costs = {
        f"{step.name}.weight": math.prod(step.layer.weight.shape[1:]) * math.prod(step.before[1:])
        for step in plan.steps
        if step.layer is not None
    }
    ranked = [
        (gain / costs[name], name, channel)
        for name in allowed
        if name in costs
        for channel, gain in enumerate(gains[name])
    ]
    ranked.sort(key=lambda each: (-each[0], each[1], each[2]))
    left = compute * sum(costs[name] for _, name, _ in ranked)
    chosen: dict[str, list[int]] = {}
    for index, (_, name, channel) in enumerate(ranked):
        if index and costs[name] > left:
            break
        left -= costs[name]
        chosen.setdefault(name, []).append(channel)
    tensors = tuple(name for name in allowed if name not in costs or name in chosen)
    return SparseUpdate(tensors, tuple((name, tuple(sorted(some))) for name, some in sorted(chosen.items())))
