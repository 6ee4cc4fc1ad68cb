"""Local training in int8, for devices short of memory: as `fedlite.train.local_train`, in a fraction of its bytes.

Weights are integers (`weights`), saved activations are bytes (`saved`), the gradient of a layer is used and
dropped before the next is computed (`passes`). The forward pass rounds as int8-aware training in float32 does
(`compress/quantize`), so the result exports as that does. (After Lin et al. 2022, "On-Device Training Under
256KB Memory", §2.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.errors import DataError, SettingsError
from fedlite.int8_training.integers import integers_pay
from fedlite.int8_training.passes import Needs, State, backward, forward
from fedlite.int8_training.plan import Plan, read_plan
from fedlite.int8_training.result import Trained
from fedlite.int8_training.sparse import EVERYTHING, SparseUpdate, update_named
from fedlite.int8_training.weights import learn, to_integers
from fedlite.models.bridge import layout
from fedlite.models.registry import ModelSpec
from fedlite.seeds import generator
from fedlite.step import soft_loss
from fedlite.tensors import check_like
from fedlite.train import TrainResult, batches
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Masks, Params, is_statistic


def int8_train(
    model: nn.Module | ModelSpec,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    settings: TrainSettings,
    *,
    seed: int,
    masks: Masks | None = None,
    teacher: Array | None = None,
    update: SparseUpdate | str = EVERYTHING,
) -> TrainResult:
    """Train `params` on (x, y) in int8; `model` only says how they compute.

    As `local_train` with settings.bits 8, of whose params it takes and gives the same names; batches are the
    same, rounding comes from the stream (seed, "rounding"). The result's params compute float32 arrays when they
    are asked for, one at a time; tensors that `update` (also "head", "last:3", as `update_named` reads them) leaves
    out are those given. What cannot be had a layer at
    a time is refused: adam, momentum and clip_norm. SettingsError for that, for a model with other layers than
    docs/int8_training.md lists, or an update of tensors that are not there; UpdateError and DataError as
    `local_train`.
    """
    _check_settings(settings)
    plan = read_plan(model, x.shape[1:])
    check_like(params, layout(plan.net), "params")
    _check_data(plan, x, y, settings, teacher)
    if isinstance(update, str):
        update = update_named(plan, update)
    run = _Run(plan, settings, update.resolve(plan), params, _live(masks or {}), generator(seed, "rounding"))
    state = begin(params, masks or {}, plan)
    needs = Needs.of(plan, run.tensors)
    for epoch in range(settings.epochs):
        loss_sum, right = 0.0, 0
        for chosen in batches(len(y), settings.batch_size, seed, epoch):
            logits, kept = forward(plan, state, torch.from_numpy(x[chosen]), needs)
            labels = torch.from_numpy(y[chosen]).to(torch.int64)
            loss, slope = loss_slope(logits, labels, settings, None if teacher is None else teacher[chosen])
            loss_sum, right = loss_sum + loss * len(chosen), right + int((logits.argmax(1) == labels).sum())
            backward(plan, state, kept, slope, needs, lambda *given: run.take(state, *given))
    learned = Trained(params, state.weights, state.small | state.ranges, masks or {}, run.tensors)
    return TrainResult(cast(dict[str, Array], learned), loss_sum / len(y), right / len(y), len(y))


def begin(params: Params, masks: Masks, plan: Plan) -> State:
    """The state that `params` name: integers for the layers' weights, float32 for the rest."""
    weights = {f"{step.name}.weight" for step in plan.steps if step.layer is not None}
    rest = {name: value for name, value in params.items() if name not in weights}
    return State(
        {name: to_integers(params[name], masks.get(name)) for name in params if name in weights},
        {name: _tensor(value, masks.get(name)) for name, value in rest.items() if not is_statistic(name)},
        {name: torch.tensor(value) for name, value in rest.items() if is_statistic(name)},
        integers_pay(),
    )


def loss_slope(
    logits: Tensor, labels: Tensor, settings: TrainSettings, teacher: Array | None
) -> tuple[float, Tensor]:
    """The labels' mean loss, and the slope at the logits of the loss that is trained on."""
    logits = logits.detach().requires_grad_()
    with torch.enable_grad():
        hard = F.cross_entropy(logits, labels)
        loss = hard
        if settings.distill_alpha < 1 and teacher is not None:
            soft = soft_loss(logits, torch.from_numpy(teacher), settings.temperature)
            loss = settings.distill_alpha * hard + (1 - settings.distill_alpha) * soft
        (slope,) = torch.autograd.grad(loss, logits)
    return float(hard.detach()), slope


@dataclass(frozen=True, eq=False)
class _Run:
    """What each step down needs."""

    plan: Plan
    settings: TrainSettings
    channels: Mapping[
        str, NDArray[np.bool_] | None
    ]  # tensors that learn: all of them, or the channels marked
    anchor: Params
    live: Mapping[str, Tensor]
    random: np.random.Generator

    @property
    def tensors(self) -> frozenset[str]:
        return frozenset(self.channels)

    def take(self, state: State, name: str, rows: slice, gradient: Tensor) -> None:
        """One step of SGD on some channels of a tensor, in place."""
        some = self.channels[name]
        if some is not None:
            chosen = torch.from_numpy(some[rows])
            if not bool(chosen.any()):
                return
        live = self.live.get(name)
        if name in state.weights:
            weight = state.weights[name]
            before = weight.steps[rows].clone(), weight.scale[rows].clone()
            anchor = self.anchor[name].reshape(weight.steps.shape)
            own = None if live is None else live.reshape(weight.steps.shape)[rows]
            learn(weight, rows, gradient, self.settings, anchor, own, self.random)
            if some is not None:
                weight.steps[rows] = torch.where(chosen[:, None], weight.steps[rows], before[0])
                weight.scale[rows] = torch.where(chosen, weight.scale[rows], before[1])
            return
        value = state.small[name]
        total = gradient + self.settings.weight_decay * value
        total += self.settings.proximal_mu * (value - torch.from_numpy(self.anchor[name]))
        if live is not None:
            total *= live
        state.small[name] = value - self.settings.learning_rate * total


def _live(masks: Masks) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(mask)) for name, mask in masks.items()}


def _tensor(value: Array, mask: NDArray[np.bool_] | None) -> Tensor:
    return torch.tensor(value if mask is None else np.where(mask, value, np.float32(0)))


def _check_settings(settings: TrainSettings) -> None:
    """SettingsError for what needs more than one layer's gradient, or float32 beside every weight."""
    if settings.bits != 8:
        raise SettingsError(f"bits is {settings.bits}; int8 training computes at 8")
    if settings.optimizer != "sgd" or settings.momentum:
        what = "momentum" if settings.momentum else settings.optimizer
        raise SettingsError(
            f"int8 training has no {what}: its state is as large as a float32 model; use plain sgd"
        )
    if settings.clip_norm:
        raise SettingsError(
            f"clip_norm is {settings.clip_norm}, which needs all gradients at once; int8 training holds one "
            "layer's: leave it 0"
        )


def _check_data(
    plan: Plan, x: NDArray[Any], y: NDArray[Any], settings: TrainSettings, teacher: Array | None
) -> None:
    """DataError unless there are examples, as many labels, and a class for each; a teacher if one is needed."""
    if len(x) != len(y) or len(y) == 0:
        raise DataError(
            f"there are {len(x)} examples and {len(y)} labels; as many of both, at least one, wanted"
        )
    if x.dtype != np.float32:
        raise DataError(f"examples are {x.dtype}; float32 wanted")
    if y.min() < 0 or y.max() >= plan.classes:
        raise DataError(
            f"labels run from {y.min()} to {y.max()}; the model has classes 0 to {plan.classes - 1}"
        )
    if settings.distill_alpha == 1:
        return
    if teacher is None:
        raise SettingsError(
            f"distill_alpha is {settings.distill_alpha}, so a teacher is needed",
            remedy="give the teacher's logits for every example, or leave distill_alpha 1",
        )
    if teacher.shape != (len(y), plan.classes) or not np.isfinite(teacher).all():
        raise DataError(f"a teacher's logits are finite, {(len(y), plan.classes)}; given are {teacher.shape}")
