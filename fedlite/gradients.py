"""Gradients at every coordinate, pruned ones too: what moves masks, and what ranks channels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedlite.compress import quantize
from fedlite.errors import DataError
from fedlite.models.bridge import layout
from fedlite.tensors import apply_masks, check_like
from fedlite.types import Array, Masks, Params, is_statistic


def dense_gradients(
    model: nn.Module,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    masks: Masks | None = None,
    bits: int = 32,
    *,
    squared: bool = False,
    batch_size: int = 64,
) -> dict[str, Array]:
    """The gradient of the mean cross-entropy on (x, y) at W ⊙ M, at all coordinates of every learned tensor.

    With `squared`, the mean over batches of its square instead (what PruneFL accumulates), batches weighted by
    their examples. Arguments as `fedlite.train.local_train` has them; neither model nor params are changed.
    UpdateError if params do not fit the model, DataError for no data, or for data not of this model.
    """
    if len(x) != len(y) or len(y) == 0:
        raise DataError(
            f"there are {len(x)} examples and {len(y)} labels; as many of both, at least one, wanted"
        )
    net = quantize.at(model, bits).train()
    wanted = layout(net)
    given = {name: value for name, value in params.items() if name in wanted or not is_statistic(name)}
    check_like(given, wanted, "params")
    weights = {name: torch.tensor(value) for name, value in apply_masks(given, masks or {}).items()}
    learned = {name: value for name, value in weights.items() if not is_statistic(name)}
    total = {name: np.zeros(value.shape, np.float64) for name, value in learned.items()}
    for images, labels in _batches(x, y, batch_size):
        share = len(labels) / len(y)
        for name, slope in _gradient(net, weights, learned, images, labels).items():
            found = slope.numpy().astype(np.float64)
            total[name] += share * (found**2 if squared else found)
    return {name: value.astype(np.float32) for name, value in total.items()}


def _gradient(
    net: nn.Module, weights: dict[str, Tensor], learned: dict[str, Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    leaves = {name: value.detach().requires_grad_() for name, value in learned.items()}
    try:
        with torch.enable_grad():
            loss = F.cross_entropy(functional_call(net, weights | leaves, (x,)), y)
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            f"the model does not learn from examples {tuple(x.shape[1:])} {x.dtype} and labels up to {int(y.max())}"
        ) from error
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _batches(x: NDArray[Any], y: NDArray[Any], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(y), size):
        part = slice(start, start + size)
        yield torch.as_tensor(x[part]), torch.as_tensor(y[part]).to(torch.int64)
