"""Sparse update: which layers and channels learn, and which of them pay under a budget of memory.

Below the first layer that learns nothing is saved and no gradient is computed; above it everything is saved, for
gradients pass there, whether a layer learns or not. So a budget of memory is a question of how deep to begin, and
what pays above that of how many products each gradient costs. (Lin et al. 2022, "On-Device Training Under 256KB
Memory", §2.2; there contribution is measured as accuracy gained, here as gradient norm², which is how fast the loss
falls at first and costs one batch instead of many trainings.)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.int8_training.plan import Plan, Step


@dataclass(frozen=True)
class SparseUpdate:
    """The tensors that learn, by name; None: all. Of a tensor in `channels`, those output channels alone."""

    tensors: tuple[str, ...] | None = None
    channels: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def resolve(self, plan: Plan) -> Mapping[str, NDArray[np.bool_] | None]:
        """Tensor → None, or True for each output channel that learns. SettingsError for what is not there."""
        known = [name for step in plan.steps for name in step.tensors]
        chosen = known if self.tensors is None else list(self.tensors)
        if odd := sorted((set(chosen) | {name for name, _ in self.channels}) - set(known)):
            raise SettingsError(f"the update names {odd[0]!r}, which the model has not; it has {known[:6]} …")
        if not chosen:
            raise SettingsError("the update names no tensor: nothing would learn")
        found: dict[str, NDArray[np.bool_] | None] = dict.fromkeys(chosen)
        state = plan.net.state_dict()
        for name, numbers in self.channels:
            count = len(state[name])
            if not numbers or min(numbers) < 0 or max(numbers) >= count:
                raise SettingsError(
                    f"channels of {name!r} are 0 to {count - 1}; the update names {numbers[:6]}"
                )
            some = np.zeros(count, bool)
            some[list(numbers)] = True
            found[name] = some
        return found


EVERYTHING = SparseUpdate()


def blocks(plan: Plan) -> tuple[tuple[str, ...], ...]:
    """The tensors of each block, in order: layers whose names begin with the same two parts, as features.17."""
    found: dict[str, tuple[str, ...]] = {}
    for step in plan.steps:
        if step.tensors:
            key = ".".join(step.name.split(".")[:2])
            found[key] = found.get(key, ()) + step.tensors
    return tuple(found.values())


def last_blocks(plan: Plan, count: int, *, biases_only: bool = False) -> SparseUpdate:
    """The last `count` blocks learn, 1 being the head; or of them only what is not a layer's weight.

    SettingsError for a count that is not 1 to the number of blocks.
    """
    every = blocks(plan)
    if not 1 <= count <= len(every):
        raise SettingsError(
            f"the last {count} blocks are to learn; the model has {len(every)}, 1 at least wanted"
        )
    small = {name for step in plan.steps for name in step.small}
    chosen = [name for block in every[-count:] for name in block if name in small or not biases_only]
    return SparseUpdate(tuple(chosen))


def update_named(plan: Plan, text: str) -> SparseUpdate:
    """The update a setting names: "all", "head", "last:3" blocks, or "biases:3" of them. SettingsError for others."""
    kind, _, number = text.partition(":")
    if text == "all":
        return EVERYTHING
    if text == "head":
        return last_blocks(plan, 1)
    if kind in ("last", "biases") and number.isdecimal() and len(number) < 4:
        return last_blocks(plan, int(number), biases_only=kind == "biases")
    raise SettingsError(f"int8 update is {text!r}; it must be all, head, last:BLOCKS or biases:BLOCKS")


def saved_bytes(plan: Plan, update: SparseUpdate, batch_size: int) -> int:
    """Bytes saved of a batch at most: one for each number a layer reads from its first learner on, a bit for each
    of these and of an activation after a sum that a mask may keep. Weights are not in it.
    """
    learns = update.resolve(plan)
    first = next(at for at, step in enumerate(plan.steps) if set(step.tensors) & set(learns))
    return sum(batch_size * step_bytes(plan, step) for step in plan.steps[first:])


def step_bytes(plan: Plan, step: Step) -> int:
    """What `saved_bytes` counts of one example in one step."""
    if step.layer is None:
        return sum(-(-math.prod(step.before) // 8) for each in step.tail if each.mask is not None)
    read = plan.size(step.sources[0])
    return read + -(-read // 8)
