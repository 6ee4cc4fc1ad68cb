"""Local training as a pure function: the same arguments give the same bytes on one kind of machine.

No global generator is drawn from, threads are the caller's to set, and neither the model nor the params given
are changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from fedlite.compress import quantize
from fedlite.errors import DataError, SettingsError
from fedlite.models.bridge import layout
from fedlite.models.norms import local_statistics, measured
from fedlite.seeds import generator
from fedlite.step import Objective, Soft, Tensors, at_precision, begin, descend, objective, soft_of
from fedlite.tensors import apply_masks, check_like
from fedlite.train_settings import TrainSettings as TrainSettings  # noqa: PLC0414  (for callers)
from fedlite.types import Array, Masks, Params, is_range, is_statistic


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What local training gives. `params` are w_t plus the update, statistics measured anew.

    `loss` and `accuracy` are means over the last epoch, each batch seen before its step. The loss is the labels'
    alone: neither the penalty nor the teacher's part is in it. They, and the params, are not finite if training
    diverged: check before sending.
    """

    params: Params
    loss: float
    accuracy: float
    num_examples: int


def local_train(
    model: nn.Module,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    settings: TrainSettings,
    *,
    seed: int,
    masks: Masks | None = None,
    teacher: Array | None = None,
    device: str = "cpu",
) -> TrainResult:
    """Train `params` on (x, y); `model` only says how they compute.

    x is (n, *input shape), y int (n,), n ≥ 1. With bits 8, params hold the activation ranges too, as `params_of(
    prepare(model))` does. Pruned coordinates are zero from the first step to the last. Batches come from the
    stream (seed, "batches", epoch). With distill_alpha below 1, `teacher` holds the teacher's logits for every
    example, (n, classes); else it is not looked at. UpdateError if params do not fit the model, DataError for
    data or logits that are none, unequal or not for this model, SettingsError for a device that is not here, a
    teacher that is missing or an autocast that is not decided.
    """
    check_device(device)
    net = quantize.at(model, settings.bits)
    return train_with(net, params, x, y, settings, seed=seed, masks=masks, teacher=teacher, device=device)


def train_with(
    net: nn.Module,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    settings: TrainSettings,
    *,
    seed: int,
    masks: Masks | None = None,
    teacher: Array | None = None,
    goal: Objective = objective,
    device: str = "cpu",
) -> TrainResult:
    """As `local_train`, with a module that computes at settings.bits already and is this call's to use.

    `goal` is what the gradient is taken of. The module is left in training mode. What copying a model costs is a
    tenth of a small client's time.
    """
    goal = at_precision(goal, settings)
    weights = _weights(net, params, settings.bits, masks, device)
    data = _Data(x, y, device, soft_of(teacher, settings))
    unsure = data.y.min() < 0 or data.soft or hasattr(net, "check_labels")
    if device != "cpu" or unsure:  # the first step would not tell, or not in time
        _check_fit(net.eval(), weights, data)
    net.train()
    learned = {name: value for name, value in weights.items() if not is_statistic(name)}
    statistics = {name: value for name, value in weights.items() if is_statistic(name)}
    live = {
        name: torch.tensor(mask, dtype=torch.float32, device=device) for name, mask in (masks or {}).items()
    }
    anchor, moments = learned, begin(learned, settings)
    for epoch in range(settings.epochs):
        loss_sum, right = 0.0, 0
        for chosen in batches(len(data), settings.batch_size, seed, epoch):
            batch = data.take(chosen)
            try:
                loss, hits, gradients, statistics = _slope(net, learned, statistics, *batch, goal)
            except (RuntimeError, ValueError, IndexError):
                _check_fit(net.eval(), weights, data)
                raise
            loss_sum, right = loss_sum + loss * len(chosen), right + hits
            with torch.no_grad():
                learned, moments = descend(learned, gradients, moments, settings, anchor, live)
    kept = local_statistics(net)
    done = {name: value for name, value in (learned | statistics).items() if name not in kept}
    trained = {name: _array(done[name]) if name in done else value.copy() for name, value in params.items()}
    return TrainResult(trained, loss_sum / len(data), right / len(data), len(data))


def _slope(
    net: nn.Module,
    learned: Tensors,
    statistics: Tensors,
    x: Tensor,
    y: Tensor,
    soft: Soft | None,
    goal: Objective,
) -> tuple[float, int, Tensors, Tensors]:
    """A batch's mean loss with the labels and how many are right, before the step; gradients; statistics after it."""
    leaves = {name: value.requires_grad_() for name, value in learned.items()}
    loss, seen = goal(net, leaves, statistics, x, y, soft)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return float(seen.hard_loss), int(seen.hits), dict(zip(leaves, found, strict=True)), seen.statistics


def evaluate(
    model: nn.Module,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    bits: int = 32,
    masks: Masks | None = None,
    device: str = "cpu",
    batch_size: int = 512,
) -> dict[str, float]:
    """Mean loss and accuracy on (x, y), computed at `bits`; raises as `local_train`."""
    check_device(device)
    net = quantize.at(model, bits)
    weights = _weights(net, params, bits, masks, device)
    data = _Data(x, y, device)
    _check_fit(net.eval(), weights, data)
    if local_statistics(net):
        weights = measured(net, weights, _parts(x, batch_size, device))
    loss_sum, right = 0.0, 0
    with torch.no_grad():
        for chosen in batches(len(data), batch_size):
            loss, seen = objective(net, weights, {}, *data.take(chosen))
            loss_sum, right = loss_sum + float(loss) * len(chosen), right + int(seen.hits)
    return {"loss": loss_sum / len(data), "accuracy": right / len(data)}


def predict(
    model: nn.Module,
    params: Params,
    x: NDArray[Any],
    *,
    bits: int = 32,
    masks: Masks | None = None,
    device: str = "cpu",
    batch_size: int = 512,
) -> NDArray[np.int64]:
    """The likeliest class of each sample of x, shape (n,), computed at `bits`; raises as `local_train`."""
    found = logits(model, params, x, bits=bits, masks=masks, device=device, batch_size=batch_size)
    return np.asarray(found.argmax(-1), np.int64)


def logits(
    model: nn.Module,
    params: Params,
    x: NDArray[Any],
    *,
    bits: int = 32,
    masks: Masks | None = None,
    device: str = "cpu",
    batch_size: int = 512,
) -> Array:
    """What the model says of each sample of x, (n, classes), computed at `bits`; raises as `local_train`."""
    check_device(device)
    net = quantize.at(model, bits)
    weights = _weights(net, params, bits, masks, device)
    if local_statistics(net):
        weights = measured(net, weights, _parts(x, batch_size, device))
    net.eval()
    try:
        with torch.no_grad():
            parts = _parts(x, batch_size, device)
            found = [functional_call(net, weights, (part,)).cpu().numpy() for part in parts]
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"the model takes no examples of shape {x.shape[1:]} {x.dtype}") from error
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)


def with_stats_of(
    model: nn.Module, params: Params, x: NDArray[Any], *, bits: int = 32, batch_size: int = 512
) -> dict[str, Array]:
    """`params` with BatchNorm's statistics measured on x: what a model with local ones is deployed with.

    UpdateError if params do not fit the model.
    """
    net = quantize.at(model, bits)
    done = measured(net, _weights(net, params, bits, None, "cpu"), _parts(x, batch_size, "cpu"))
    return {name: _array(done[name]) if name in done else value.copy() for name, value in params.items()}


def batches(
    count: int, batch_size: int, seed: int | None = None, epoch: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Indices of each batch of an epoch, the last one maybe shorter; shuffled by (seed, "batches", epoch).

    The full batch, and every batch without a seed, is in the data's own order.
    """
    order = np.arange(count)
    if seed is not None and batch_size:
        order = generator(seed, "batches", epoch).permutation(count)
    for start in range(0, count, batch_size or count):
        yield order[start : start + (batch_size or count)]


def _parts(x: NDArray[Any], batch_size: int, device: str) -> Iterator[Tensor]:
    """All examples in order, batch by batch."""
    return (torch.as_tensor(x[chosen], device=device) for chosen in batches(len(x), batch_size))


class _Data:
    """(x, y), and what the teacher says of them, as batches on a device; checked once, copied batch by batch."""

    def __init__(self, x: NDArray[Any], y: NDArray[Any], device: str, soft: Soft | None = None) -> None:
        if len(x) != len(y) or len(y) == 0:
            raise DataError(
                f"there are {len(x)} examples and {len(y)} labels; as many of both, at least one, wanted"
            )
        if soft and len(soft.logits) != len(y):
            raise DataError(f"there are {len(y)} examples and a teacher's logits for {len(soft.logits)}")
        self.x, self.y, self.device, self.soft = x, y, device, soft

    def __len__(self) -> int:
        return len(self.y)

    def take(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor, Soft | None]:
        x, y = torch.from_numpy(self.x[chosen]), torch.from_numpy(self.y[chosen])
        soft = self.soft and self.soft._replace(logits=self.soft.logits[chosen].to(self.device))
        return x.to(self.device), y.to(self.device, torch.int64), soft


def _weights(net: nn.Module, params: Params, bits: int, masks: Masks | None, device: str) -> Tensors:
    """The tensors that `net` computes with; at 32 bits activation ranges are left out."""
    if bits == 32:
        params = {name: value for name, value in params.items() if not is_range(name)}
    check_like(params, layout(net), "params")
    params = apply_masks(params, masks or {})
    return {name: torch.tensor(value, device=device) for name, value in params.items()}


def _check_fit(net: nn.Module, weights: Tensors, data: _Data) -> None:
    """DataError unless the model takes the first example and has a class for every label; a detector asks more."""
    try:
        with torch.no_grad():
            x, _, _ = data.take(np.zeros(1, np.int64))
            classes = functional_call(net, dict(weights), (x,)).shape[1]
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"the model takes no examples of shape {data.x.shape[1:]} {data.x.dtype}") from error
    if data.soft and data.soft.logits.shape[1] != classes:
        raise DataError(f"the teacher tells {data.soft.logits.shape[1]} classes, the model {classes}")
    if own := getattr(net, "check_labels", None):
        return own(data.y)  # type: ignore[no-any-return]
    if data.y.min() < 0 or data.y.max() >= classes:
        low, high = int(data.y.min()), int(data.y.max())
        raise DataError(f"labels run from {low} to {high}; the model has classes 0 to {classes - 1}")


def check_device(device: str) -> None:
    """SettingsError, with the devices of this machine, unless torch can compute on `device`."""
    here = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    here += ["cuda"] * (len(here) > 1) + ["mps"] * torch.backends.mps.is_available()
    if device not in here:
        raise SettingsError(f"device {device!r} is not available; this machine has {', '.join(here)}")


def _array(value: Tensor) -> Array:
    return value.detach().cpu().numpy()
