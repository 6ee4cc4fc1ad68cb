"""Local training as a pure function: the same arguments give the same bytes on one kind of machine.

`objective` and `descend` are one step, written on name → tensor, so that a simulator can vmap them over clients;
`local_train` is the loop a device runs. No global generator is drawn from, threads are the caller's to set, and
neither the model nor the params given are changed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedlite.compress import quantize
from fedlite.errors import DataError, SettingsError
from fedlite.models.bridge import layout
from fedlite.seeds import generator
from fedlite.tensors import apply_masks, check_like
from fedlite.types import Array, Masks, Params, is_statistic

Tensors = dict[str, Tensor]

ADAM_BETAS = (0.9, 0.999)  # Kingma & Ba 2015, Algorithm 1, as is epsilon
ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class TrainSettings:
    """How one client trains in one round. SettingsError, with the range allowed, for a value outside it."""

    epochs: int = 1  # passes over the data, ≥ 1
    batch_size: int = 32  # examples per step; 0 takes all of them (FedSGD)
    optimizer: Literal["sgd", "adam"] = "sgd"  # its state begins at zero in every round
    learning_rate: float = 0.05
    momentum: float = 0.0  # of sgd, in [0, 1)
    weight_decay: float = 0.0  # added to the gradient as weight_decay · w, after clipping
    proximal_mu: float = 0.0  # FedProx: mu/2 · ‖w − w_t‖² on top of the loss (Li et al. 2020, eq. 2)
    clip_norm: float = 0.0  # longest gradient, L2 over all tensors, the penalty's included; 0 is off
    bits: int = 32  # 8 trains int8-aware

    def __post_init__(self) -> None:
        """Check every field."""
        _require("epochs", self.epochs, type(self.epochs) is int and self.epochs >= 1, "a whole number ≥ 1")
        whole = type(self.batch_size) is int and self.batch_size >= 0
        _require("batch_size", self.batch_size, whole, "a whole number ≥ 0; 0 is the full batch")
        _require("optimizer", self.optimizer, self.optimizer in ("sgd", "adam"), "sgd or adam")
        _require("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "> 0")
        _require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        for name in ("weight_decay", "proximal_mu", "clip_norm"):
            value = getattr(self, name)
            _require(name, value, 0 <= value < math.inf, "≥ 0")
        _require("bits", self.bits, self.bits in (8, 32), "32 (float32) or 8 (int8-aware)")
        if self.optimizer == "adam" and self.momentum:
            raise SettingsError(f"momentum is {self.momentum}, which adam does not use; leave it 0")


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What local training gives. `params` are w_t plus the update, statistics measured anew.

    `loss` and `accuracy` are means over the last epoch, each batch seen before its step; the penalty is not in
    the loss. They, and the params, are not finite if training diverged: check before sending.
    """

    params: dict[str, Array]
    loss: float
    accuracy: float
    num_examples: int


class Moments(NamedTuple):
    """The optimizer's state: mean gradients (or momentum), mean squares (adam only), and steps taken."""

    first: Tensors
    second: Tensors
    steps: int


def local_train(
    model: nn.Module,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    settings: TrainSettings,
    *,
    seed: int,
    masks: Masks | None = None,
    device: str = "cpu",
) -> TrainResult:
    """Train `params` on (x, y); `model` only says how they compute.

    x is (n, *input shape), y int (n,), n ≥ 1. With bits 8, params hold the activation ranges too, as `params_of(
    prepare(model))` does. Pruned coordinates are zero from the first step to the last. Batches come from the
    stream (seed, "batches", epoch). UpdateError if params do not fit the model, DataError for no or unequal
    data, SettingsError for a device that is not here.
    """
    net, weights = _open(model, params, settings.bits, masks, device)
    net.train()
    learned = {name: value for name, value in weights.items() if not is_statistic(name)}
    statistics = {name: value for name, value in weights.items() if is_statistic(name)}
    live = {
        name: torch.tensor(mask, dtype=torch.float32, device=device) for name, mask in (masks or {}).items()
    }
    anchor, moments = learned, begin(learned, settings)
    data = _Data(x, y, device)
    for epoch in range(settings.epochs):
        loss_sum, right = 0.0, 0
        for chosen in batches(len(data), settings.batch_size, seed, epoch):
            leaves = {name: value.requires_grad_() for name, value in learned.items()}
            loss, (hits, statistics) = objective(net, leaves, statistics, *data.take(chosen))
            grads = torch.autograd.grad(
                loss, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
            with torch.no_grad():
                loss_sum, right = loss_sum + float(loss) * len(chosen), right + int(hits)
                gradients = dict(zip(leaves, grads, strict=True))
                learned, moments = descend(learned, gradients, moments, settings, anchor, live)
    done = learned | statistics
    trained = {name: _array(done[name]) if name in done else value.copy() for name, value in params.items()}
    return TrainResult(trained, loss_sum / len(data), right / len(data), len(data))


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
    net, weights = _open(model, params, bits, masks, device)
    net.eval()
    data = _Data(x, y, device)
    loss_sum, right = 0.0, 0
    with torch.no_grad():
        for chosen in batches(len(data), batch_size):
            loss, (hits, _) = objective(net, weights, {}, *data.take(chosen))
            loss_sum, right = loss_sum + float(loss) * len(chosen), right + int(hits)
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
    net, weights = _open(model, params, bits, masks, device)
    net.eval()
    with torch.no_grad():
        found = [
            functional_call(net, weights, (torch.as_tensor(x[chosen], device=device),))
            .argmax(-1)
            .cpu()
            .numpy()
            for chosen in batches(len(x), batch_size)
        ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


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


def objective(
    net: nn.Module, learned: Tensors, statistics: Tensors, x: Tensor, y: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensors]]:
    """Mean cross-entropy of a batch; and how many are right, and the statistics after it. Pure."""
    weights = {**learned, **statistics}
    logits = functional_call(net, weights, (x,))
    hits = (logits.argmax(-1) == y).sum()
    return F.cross_entropy(logits, y), (hits, {name: weights[name] for name in statistics})


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


class _Data:
    """(x, y) as batches on a device; checked once, copied batch by batch."""

    def __init__(self, x: NDArray[Any], y: NDArray[Any], device: str) -> None:
        if len(x) != len(y) or len(y) == 0:
            raise DataError(
                f"there are {len(x)} examples and {len(y)} labels; as many of both, at least one, wanted"
            )
        self.x, self.y, self.device = x, y, device

    def __len__(self) -> int:
        return len(self.y)

    def take(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        x, y = torch.from_numpy(self.x[chosen]), torch.from_numpy(self.y[chosen])
        return x.to(self.device), y.to(self.device, torch.int64)


def _open(
    model: nn.Module, params: Params, bits: int, masks: Masks | None, device: str
) -> tuple[nn.Module, Tensors]:
    """The module that computes at `bits`, and its tensors; at 32 bits statistics are left out."""
    check_device(device)
    net = quantize.at(model, bits)
    if bits == 32:
        params = {name: value for name, value in params.items() if not is_statistic(name)}
    check_like(params, layout(net), "params")
    params = apply_masks(params, masks or {})
    return net, {name: torch.tensor(value, device=device) for name, value in params.items()}


def check_device(device: str) -> None:
    """SettingsError, with the devices of this machine, unless torch can compute on `device`."""
    here = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    here += ["cuda"] * (len(here) > 1) + ["mps"] * torch.backends.mps.is_available()
    if device not in here:
        raise SettingsError(f"device {device!r} is not available; this machine has {', '.join(here)}")


def _array(value: Tensor) -> Array:
    return value.detach().cpu().numpy()


def _require(name: str, value: object, fits: bool, wanted: str) -> None:
    if not fits:
        raise SettingsError(f"{name} is {value!r}; it must be {wanted}")
