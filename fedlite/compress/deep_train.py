"""Training what Deep Compression stores: weights under masks that close, then centroids that weights share.

Both train `net`'s own weights in its place: it is the caller's to give away. No global generator is drawn from; on one
thread the same arguments give the same bytes. (Han et al. 2016, "Deep Compression"; Zhu & Gupta 2017, "To prune, or
not to prune", equation 1; Lin et al. 2020: "Dynamic Model Pruning with Feedback")
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.compress.cluster import Shared, centroid_gradient
from fedlite.errors import DataError, SettingsError
from fedlite.models.bridge import load_params, params_of
from fedlite.seeds import derive, generator
from fedlite.step import soft_loss
from fedlite.types import Array, Masks, Params

Tell = Callable[[str], None]
Schedule = Callable[[Params, float], Masks]  # (weights, how far from 0 to 1) → what is live now


@dataclass(frozen=True)
class Training:
    """How one stage trains: Adam, its rate falling to zero as half a cosine."""

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0  # decoupled: w ← w − rate · decay · w (Loshchilov & Hutter 2019)
    shift: int = 0  # pixels: each image is moved by up to this many, each way, filled with zeros
    soft: float = 0.0  # share of the loss that follows a teacher's logits at `temperature`, in [0, 1]
    temperature: float = 3.0

    def check(self) -> None:
        """SettingsError, with the range allowed, for a value outside it."""
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{name} is {value}; it must be {low:g} to {high:g}")


_RANGES = (
    ("epochs", 0, 10**6), ("batch_size", 1, 10**6), ("learning_rate", 1e-12, 1e3), ("weight_decay", 0, 1e3),
    ("shift", 0, 100), ("soft", 0, 1), ("temperature", 1e-3, 1e3),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Examples:
    """What is trained on: x (n, *input shape), y int (n,), and maybe a teacher's logits (n, classes) for x."""

    x: NDArray[Any]
    y: NDArray[Any]
    logits: Array | None = None

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.y) > 0:
            raise DataError(f"there are {len(self.x)} examples and {len(self.y)} labels; at least one wanted")

    def __len__(self) -> int:
        return len(self.y)


def cubic(progress: float, sparsity: float, until: float = 0.6) -> float:
    """Sparsity at `progress` in [0, 1]: from 0, steep at first, `sparsity` from `until` on. (Zhu & Gupta, eq. 1)"""
    return sparsity * (1 - (1 - min(progress / until, 1)) ** 3)


def train_masked(
    net: nn.Module,
    examples: Examples,
    settings: Training,
    *,
    seed: int,
    masks_at: Schedule | None = None,
    updates: int = 100,
    tell: Tell | None = None,
) -> tuple[dict[str, Array], Masks]:
    """(weights, masks) after training; the last masks are those of progress 1, and weights outside are zero.

    `masks_at` is asked `updates` times, evenly. A pruned weight keeps its value and does not learn: under Adam, whose
    steps are as long for noise as for slopes, feedback to pruned weights (Lin et al. 2020) made LeNet-300-100 at 3 %
    twice as wrong.
    """
    names = [name for name, _ in net.named_parameters()]
    kept = [parameter.detach().clone() for parameter in net.parameters()]
    masks: Masks = {}
    steps = settings.epochs * _batches(examples, settings)
    every = max(1, steps // updates)

    def refresh(progress: float) -> None:
        nonlocal masks
        if masks_at is not None:
            masks = masks_at({name: each.numpy() for name, each in zip(names, kept, strict=True)}, progress)
            live.update({name: torch.from_numpy(mask).float() for name, mask in masks.items()})

    def place() -> None:
        for name, parameter, value in zip(names, net.parameters(), kept, strict=True):
            parameter.data.copy_(value * live[name] if name in live else value)

    live: dict[str, Tensor] = {}

    def before(step: int) -> None:
        if step % every == 0:
            refresh(step / steps)
        place()

    def pull(gradients: list[Tensor]) -> list[Tensor]:
        pairs = zip(names, gradients, strict=True)
        return [each * live[name] if name in live else each for name, each in pairs]

    _descend(net, kept, pull, before, examples, settings, seed, tell)
    refresh(1.0)
    place()
    return params_of(net), masks


def train_shared(
    net: nn.Module,
    shared: Mapping[str, Shared],
    examples: Examples,
    settings: Training,
    *,
    seed: int,
    tell: Tell | None = None,
) -> dict[str, Shared]:
    """The same indices with trained codebooks: a centroid moves by the sum of its weights' gradients.

    `shared` has every parameter of `net`; of its buffers, statistics of batch norms, none changes. (Han et al. 2016,
    §3.3)
    """
    load(net, {name: each.dense() for name, each in shared.items()})
    names = [name for name, _ in net.named_parameters()]
    books = [torch.from_numpy(shared[name].codebook.copy()) for name in names]

    def place(_: int) -> None:
        for name, parameter, book in zip(names, net.parameters(), books, strict=True):
            parameter.data.copy_(torch.from_numpy(shared[name].with_codebook(book.numpy()).dense()))

    def pull(gradients: list[Tensor]) -> list[Tensor]:
        pairs = zip(names, gradients, strict=True)
        return [torch.from_numpy(centroid_gradient(each.numpy(), shared[name])) for name, each in pairs]

    _descend(net, books, pull, place, examples, settings, seed, tell, still=True)
    trained = {
        name: shared[name].with_codebook(book.numpy()) for name, book in zip(names, books, strict=True)
    }
    return dict(shared) | trained


def load(net: nn.Module, params: Params) -> nn.Module:
    """`net` itself, holding `params`."""
    load_params(net, params)
    return net


def logits_of(net: nn.Module, x: NDArray[Any], batch_size: int = 500) -> Array:
    """What `net` answers, (n, classes), without gradients."""
    net.eval()
    with torch.no_grad():
        parts = [net(torch.from_numpy(x[i : i + batch_size])).numpy() for i in range(0, len(x), batch_size)]
    return np.concatenate(parts)


def error_of(net: nn.Module, x: NDArray[Any], y: NDArray[Any]) -> float:
    """The share of (x, y) that `net` gets wrong, in per cent."""
    return float((logits_of(net, x).argmax(1) != y).mean() * 100)


def _descend(
    net: nn.Module,
    leaves: list[Tensor],
    pull: Callable[[list[Tensor]], list[Tensor]],
    before: Callable[[int], None],
    examples: Examples,
    settings: Training,
    seed: int,
    tell: Tell | None,
    still: bool = False,
) -> None:
    """Adam on `leaves`; `before(step)` writes them into `net`, `pull` makes their gradients of the net's.

    With `still`, batch norms use their statistics and do not change them.
    """
    adam = torch.optim.AdamW(leaves, settings.learning_rate, weight_decay=settings.weight_decay)
    total, step = settings.epochs * _batches(examples, settings), 0
    _check_fit(net, examples)
    net.train()
    for layer in net.modules():
        if still and isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.eval()
    for epoch in range(settings.epochs):
        losses = 0.0
        for x, y, soft in _draw(examples, settings, seed, epoch):
            before(step)
            net.zero_grad()
            loss = _loss(net(x), y, soft, settings)
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = pull([_gradient(parameter) for parameter in net.parameters()])
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient
            for group in adam.param_groups:
                group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * step / total)) / 2
            adam.step()
            step, losses = step + 1, losses + float(loss.detach()) * len(y)
        if not math.isfinite(losses):
            raise SettingsError(f"training diverged in epoch {epoch + 1}", remedy="lower the learning rate")
        if tell is not None:
            tell(f"epoch {epoch + 1}/{settings.epochs}  loss {losses / len(examples):.4f}")
    before(step)


def _check_fit(net: nn.Module, examples: Examples) -> None:
    """DataError unless the net takes the first example, has a class for every label and all that the teacher has."""
    try:
        classes = logits_of(net, examples.x[:1]).shape[1]
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            f"the model takes no examples of shape {examples.x.shape[1:]} {examples.x.dtype}"
        ) from error
    low, high = int(examples.y.min()), int(examples.y.max())
    if low < 0 or high >= classes:
        raise DataError(f"labels run from {low} to {high}; the model has classes 0 to {classes - 1}")
    if examples.logits is not None and examples.logits.shape != (len(examples), classes):
        raise DataError(
            f"the teacher says {examples.logits.shape} of the examples; {(len(examples), classes)} wanted",
            remedy="give a teacher of the same classes",
        )


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _loss(logits: Tensor, y: Tensor, soft: Tensor | None, settings: Training) -> Tensor:
    """(1 − soft) · cross-entropy + soft · `soft_loss` of the teacher."""
    hard = F.cross_entropy(logits, y)
    if soft is None or not settings.soft:
        return hard
    return (1 - settings.soft) * hard + settings.soft * soft_loss(logits, soft, settings.temperature)


def _batches(examples: Examples, settings: Training) -> int:
    return -(-len(examples) // settings.batch_size)


def _draw(
    examples: Examples, settings: Training, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """An epoch's batches, shuffled and moved by the stream (seed, "deep", epoch)."""
    random = generator(derive(seed, "deep"), "epoch", epoch)
    order = random.permutation(len(examples))
    for start in range(0, len(order), settings.batch_size):
        chosen = order[start : start + settings.batch_size]
        x = examples.x[chosen]
        if settings.shift:
            x = _moved(x, settings.shift, random)
        soft = None if examples.logits is None else torch.from_numpy(examples.logits[chosen])
        yield torch.from_numpy(x), torch.from_numpy(examples.y[chosen]), soft


def _moved(x: NDArray[Any], most: int, random: np.random.Generator) -> NDArray[Any]:
    """Images (n, channels, height, width), each moved by up to `most` pixels, zeros coming in."""
    padded = np.pad(x, ((0, 0), (0, 0), (most, most), (most, most)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[2:], axis=(2, 3))
    down, right = random.integers(0, 2 * most + 1, (2, len(x)))
    return np.ascontiguousarray(windows[np.arange(len(x)), :, down, right])
