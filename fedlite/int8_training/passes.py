"""One batch forward and back, layer by layer: what is kept is int8, what is float32 is a layer's or less.

Going back, a layer is computed once more from its saved input, a few examples at a time, so that norms,
activations and pooling need nothing saved; and what each weight learns is handed over at once.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.int8_training.plan import INPUT, Plan, Step, join, run_tail
from fedlite.int8_training.products import Product, Take
from fedlite.int8_training.reading import Operation
from fedlite.int8_training.saved import Saved, bits, mask_bits, moved, save
from fedlite.int8_training.weights import Weight


@dataclass(eq=False)
class State:
    """What training changes: int8 weights, small float32 tensors, activation ranges, by tensor name."""

    weights: dict[str, Weight]
    small: dict[str, Tensor]
    ranges: dict[str, Tensor]
    in_integers: bool  # whether products of whole numbers are computed as such


@dataclass(frozen=True, eq=False)
class Needs:
    """Which tensors learn, and so which values (by step) need a gradient."""

    learns: frozenset[str]
    values: frozenset[int]

    @staticmethod
    def of(plan: Plan, learns: frozenset[str]) -> "Needs":
        """The values at and above the first step that learns."""
        needed: set[int] = set()
        for at, step in enumerate(plan.steps):
            if learns.intersection(step.tensors) or needed.intersection(step.sources):
                needed.add(at)
        return Needs(learns, frozenset(needed))


Kept = dict[int, Saved | list[NDArray[np.uint8]]]  # by step: a layer's input, or a sum's activation masks


def forward(plan: Plan, state: State, batch: Tensor, needs: Needs) -> tuple[Tensor, Kept]:
    """The logits of a batch, and what going back needs. Activation ranges move."""
    values: dict[int, Tensor] = {INPUT: batch}
    last = {source: at for at, step in enumerate(plan.steps) for source in step.sources}
    kept: Kept = {}
    for at, step in enumerate(plan.steps):
        if step.layer is None:
            masks: list[NDArray[np.uint8]] = []
            values[at] = _joined(step, [values[each] for each in step.sources], masks)
            if at in needs.values:
                kept[at] = masks
        else:
            name = f"{step.name}.act_range"
            state.ranges[name] = moved(state.ranges[name], values[step.sources[0]])
            saved = save(values[step.sources[0]], state.ranges[name])
            if last[step.sources[0]] == at:
                del values[step.sources[0]]
            values[at] = _layer_forward(plan, step, state, saved)
            if at in needs.values:
                kept[at] = saved
            del saved
        for source in step.sources:
            if last[source] == at:
                values.pop(source, None)
    return values[len(plan.steps) - 1], kept


def _joined(step: Step, sources: list[Tensor], masks: list[NDArray[np.uint8]]) -> Tensor:
    """A step without a layer; the masks of its activations are put on the list."""
    value = join(sources)
    for operation in step.tail:
        if operation.mask is not None:
            masks.append(bits(operation.mask(value)))
        value = operation.apply(value, {})
    return value


def _layer_forward(plan: Plan, step: Step, state: State, saved: Saved) -> Tensor:
    product = _product(plan, step, state)
    out = torch.empty((len(saved.steps), *step.result))
    for part in product.portions(len(saved.steps)):
        out[part] = run_tail(step, product.forward(saved, part), state.small)
    return out


def _product(plan: Plan, step: Step, state: State) -> Product:
    bias = state.small.get(f"{step.name}.bias")
    return Product(step, state.weights[f"{step.name}.weight"], bias, state.in_integers, plan.portion)


def backward(plan: Plan, state: State, kept: Kept, slope: Tensor, needs: Needs, take: Take) -> None:
    """Hands every gradient that is needed to `take`, from the last layer to the first; `kept` is used up.

    `slope` is that of the logits. What `take` changes of a layer is not read again in this pass.
    """
    slopes = {len(plan.steps) - 1: slope}
    del slope
    for at in reversed(range(len(plan.steps))):
        step = plan.steps[at]
        if at not in needs.values or at not in slopes:
            continue
        held = kept.pop(at)
        passes = [each for each in step.sources if each in needs.values]
        if isinstance(held, Saved):
            down = _layer_backward(plan, step, state, held, slopes.pop(at), needs, bool(passes), take)
        else:
            down = _unjoined(step, slopes.pop(at), held)
        for index, source in enumerate(passes):
            assert down is not None
            if source in slopes:
                slopes[source] += down
            else:
                slopes[source] = down if index == 0 else down.clone()
        del down, held


def _unjoined(step: Step, slope: Tensor, masks: list[NDArray[np.uint8]]) -> Tensor:
    """The slope of what a step without a layer reads."""
    shapes = [step.before]
    for operation in step.tail:
        probe = torch.empty((1, *shapes[-1]), device="meta")
        shapes.append(tuple(operation.apply(probe, {}).shape[1:]))
    left = list(masks)
    for operation, shape in zip(reversed(step.tail), reversed(shapes[:-1]), strict=True):
        if operation.mask is not None:
            slope = mask_bits(slope, left.pop())
        else:
            slope = _pull(operation, (len(slope), *shape), slope)
    return slope


def _pull(operation: Operation, shape: tuple[int, ...], slope: Tensor) -> Tensor:
    """The slope before a linear operation."""
    value = torch.zeros(shape, requires_grad=True)
    with torch.enable_grad():
        (found,) = torch.autograd.grad(operation.apply(value, {}), value, slope)
    return found


def _layer_backward(
    plan: Plan, step: Step, state: State, saved: Saved, slope: Tensor, needs: Needs, passes: bool, take: Take
) -> Tensor | None:
    """What the layer and its tail learn; and the slope of the layer's input, if that passes on."""
    name = f"{step.name}.weight"
    product = _product(plan, step, state)
    product.begin(name in needs.learns, passes)
    found = {each: torch.zeros_like(state.small[each]) for each in step.small if each in needs.learns}
    down = torch.empty(saved.steps.shape) if passes else None
    for part in product.portions(len(saved.steps)):
        inner = _tail_backward(step, state, product, saved, part, slope[part], found)
        if (bias := f"{step.name}.bias") in found:
            found[bias] += inner.transpose(0, 1).flatten(1).sum(1)
        below = product.backward(saved, part, inner, take)
        if down is not None and below is not None:
            down[part] = saved.clip(below, part)
    product.finish(take)
    for each, gradient in found.items():
        take(each, slice(None), gradient)
    return down


def _tail_backward(
    step: Step,
    state: State,
    product: Product,
    saved: Saved,
    part: slice,
    slope: Tensor,
    found: dict[str, Tensor],
) -> Tensor:
    """The slope of the layer's result for some examples; what the tail's weights learn is added to `found`."""
    if not step.tail:
        return slope
    value = product.forward(saved, part) if step.bends else torch.zeros((len(slope), *step.before))
    value.requires_grad_()
    own = {each: state.small[each] for operation in step.tail for each in operation.weights}
    leaves = {each: tensor.detach().requires_grad_(each in found) for each, tensor in own.items()}
    asked = [each for each in leaves if each in found]
    with torch.enable_grad():
        result = run_tail(step, value, leaves)
        inner, *rest = torch.autograd.grad(result, [value, *(leaves[each] for each in asked)], slope)
    for each, gradient in zip(asked, rest, strict=True):
        found[each] += gradient
    return inner
