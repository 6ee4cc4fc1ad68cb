"""One step of local training, pure: a device loops over it, a simulator can vmap it over its clients.

Weights, gradients and the optimizer's state are name → tensor, given as arguments and returned anew.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedlite.errors import DataError, SettingsError
from fedlite.train_settings import TrainSettings
from fedlite.types import Array

Tensors = dict[str, Tensor]

ADAM_BETAS = (0.9, 0.999)  # Kingma & Ba 2015, Algorithm 1, as is epsilon
ADAM_EPSILON = 1e-8


class Moments(NamedTuple):
    """The optimizer's state: mean gradients (or momentum), mean squares (adam only), and steps taken."""

    first: Tensors
    second: Tensors
    steps: int


class Soft(NamedTuple):
    """What a teacher says of a batch, and how much of the loss that is."""

    logits: Tensor  # the teacher's, (batch, classes), finite
    alpha: float  # weight of the labels' loss, in [0, 1]
    temperature: float  # > 0


class Seen(NamedTuple):
    """What the objective saw on its way: how many are right, the statistics after, the labels' mean loss."""

    hits: Tensor
    statistics: Tensors
    hard_loss: Tensor


Objective = Callable[[nn.Module, Tensors, Tensors, Tensor, Tensor, Soft | None], tuple[Tensor, Seen]]


def objective(
    net: nn.Module, learned: Tensors, statistics: Tensors, x: Tensor, y: Tensor, soft: Soft | None = None
) -> tuple[Tensor, Seen]:
    """A batch's mean loss, and what was seen of it. Pure.

    The loss is the labels' cross-entropy, or what the model itself calls `loss`; with a teacher,
    α · cross-entropy + (1 − α) · `soft_loss`.
    """
    weights = {**learned, **statistics}
    logits = functional_call(net, weights, (x,))
    own = getattr(net, "loss", None)  # a detector's, of boxes
    hard, hits = own(logits, y) if own else (F.cross_entropy(logits, y), (logits.argmax(-1) == y).sum())
    loss = hard
    if soft is not None:
        loss = soft.alpha * hard + (1 - soft.alpha) * soft_loss(logits, soft.logits, soft.temperature)
    return loss, Seen(hits, {name: weights[name] for name in statistics}, hard.detach())


def at_precision(goal: Objective, settings: TrainSettings) -> Objective:
    """`goal` as settings.autocast says: with "bf16", matrix products and what else torch.autocast deems safe are in
    bfloat16, while weights, loss and gradients stay float32. SettingsError for an "auto" that nobody resolved.
    """
    if settings.autocast == "auto":
        raise SettingsError(
            "autocast is auto, which depends on the device", remedy="call fedlite.autocast.resolve"
        )
    if settings.autocast == "off":
        return goal

    def mixed(
        net: nn.Module, learned: Tensors, statistics: Tensors, x: Tensor, y: Tensor, soft: Soft | None = None
    ) -> tuple[Tensor, Seen]:
        with torch.autocast(x.device.type, torch.bfloat16):
            return goal(net, learned, statistics, x, y, soft)

    return mixed


def soft_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(logits / T)), the mean over examples. (Hinton et al. 2015, §2)

    Both are (batch, classes). T² keeps the gradient's size when T changes.
    """
    log_p, log_q = (F.log_softmax(each.float() / temperature, -1) for each in (teacher, logits))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def soft_of(teacher: Array | None, settings: TrainSettings) -> Soft | None:
    """The teacher's logits for all examples, (n, classes), and their weight; None where the labels are all.

    SettingsError for a teacher that is missing, DataError for logits of another form or not finite.
    """
    if settings.distill_alpha == 1:
        return None
    if teacher is None:
        raise SettingsError(
            f"distill_alpha is {settings.distill_alpha}, so a teacher is needed",
            remedy="give the teacher's logits for every example, or leave distill_alpha 1",
        )
    if teacher.ndim != 2:
        raise DataError(f"a teacher's logits are (examples, classes), not {teacher.shape}")
    if not np.isfinite(teacher).all():
        raise DataError("the teacher's logits hold NaN or infinity")
    return Soft(torch.tensor(teacher, dtype=torch.float32), settings.distill_alpha, settings.temperature)


def begin(learned: Tensors, settings: TrainSettings) -> Moments:
    """The optimizer's state before the first step."""
    adam = settings.optimizer == "adam"
    first = {n: torch.zeros_like(w) for n, w in learned.items()} if adam or settings.momentum else {}
    second = {n: torch.zeros_like(w) for n, w in learned.items()} if adam else {}
    return Moments(first, second, 0)


def descend(
    learned: Tensors,
    gradients: Tensors,
    moments: Moments,
    settings: TrainSettings,
    anchor: Tensors,
    live: Tensors,
) -> tuple[Tensors, Moments]:
    """One step down from `learned`; pure. `anchor` is w_t; `live` holds the masks as 0.0 and 1.0.

    The order is: penalty, mask, clip, weight decay, optimizer (sgd and adam as torch.optim's).
    """
    if settings.proximal_mu:
        gradients = {n: g + settings.proximal_mu * (learned[n] - anchor[n]) for n, g in gradients.items()}
    gradients = {n: g * live[n] if n in live else g for n, g in gradients.items()}
    if settings.clip_norm:
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        factor = (settings.clip_norm / norm).clamp(max=1.0)
        gradients = {n: g * factor for n, g in gradients.items()}
    if settings.weight_decay:
        gradients = {n: g.add(learned[n], alpha=settings.weight_decay) for n, g in gradients.items()}
    if settings.optimizer == "adam":
        return _adam(learned, gradients, moments, settings.learning_rate)
    if settings.momentum:
        gradients = {n: g.add(moments.first[n], alpha=settings.momentum) for n, g in gradients.items()}
        moments = Moments(gradients, {}, moments.steps + 1)
    return {n: w.sub(gradients[n], alpha=settings.learning_rate) for n, w in learned.items()}, moments


def _adam(learned: Tensors, gradients: Tensors, moments: Moments, rate: float) -> tuple[Tensors, Moments]:
    """Kingma & Ba 2015, Algorithm 1."""
    (beta1, beta2), steps = ADAM_BETAS, moments.steps + 1
    first = {n: torch.lerp(moments.first[n], g, 1 - beta1) for n, g in gradients.items()}
    second = {n: moments.second[n] * beta2 + (1 - beta2) * g * g for n, g in gradients.items()}
    size, spread = rate / (1 - beta1**steps), 1 / math.sqrt(1 - beta2**steps)
    stepped = {
        n: w - size * first[n] / (second[n].sqrt() * spread + ADAM_EPSILON) for n, w in learned.items()
    }
    return stepped, Moments(first, second, steps)
