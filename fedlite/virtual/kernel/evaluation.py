"""A model's loss and accuracy by the kernel's forward pass, over pieces of the data on several threads."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlite.errors import SettingsError
from fedlite.tensors import apply_masks
from fedlite.types import Masks, Params
from fedlite.virtual.kernel import plan as planning
from fedlite.virtual.kernel.build import library
from fedlite.virtual.kernel.cohort import checked
from fedlite.virtual.kernel.layers import Layer

PIECE = 32  # examples that pass the layers together: few, so that what is between layers stays in the cache

_POINTERS = ("weights", "x", "y", "loss", "hits")


class _Test(ctypes.Structure):
    """As in src/job.hpp."""

    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        *((name, ctypes.c_int64) for name in ("num_layers", "bits", "stride", "count", "piece")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("threads", ctypes.c_int64),
    )


def supports_evaluation(model: nn.Module, bits: int = 32) -> str | None:
    """None when `evaluate` knows this model at `bits`; otherwise what it does not know, in a few words."""
    return planning.reason(model) if bits in planning.BITS else f"weights have {bits} bits"


def evaluate(
    model: nn.Module,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    bits: int = 32,
    masks: Masks | None = None,
    threads: int | None = None,
) -> dict[str, float]:
    """`fedlite.train.evaluate`, to rounding: mean loss and accuracy on (x, y), computed at `bits`.

    The result's bytes do not depend on `threads` (≥ 1; all cores by default). Raises as `local_train`, and
    SettingsError where `supports_evaluation` or `available` say so.
    """
    if reason := supports_evaluation(model, bits):
        raise SettingsError(f"the compiled kernel cannot test this: {reason}", remedy="test with torch")
    plan = planning.plan(model, params, x.shape[1:], bits)
    data = checked((x, y), x.shape[1:], plan.classes)
    pieces = -(-data.count // PIECE)
    loss, hits = np.empty(pieces), np.empty(pieces, np.int64)
    weights = planning.row(plan, apply_masks(params, masks or {}))
    arrays: dict[str, NDArray[Any]] = {
        "weights": weights,
        "x": data.x,
        "y": data.y,
        "loss": loss,
        "hits": hits,
    }
    test = _Test(
        layers=plan.layers,
        num_layers=len(plan.layers),
        bits=bits,
        stride=plan.stride,
        count=data.count,
        piece=min(PIECE, data.count),
        threads=threads or planning.cores(),
        **{name: planning.address(array) for name, array in arrays.items()},
    )
    if library().fedlite_evaluate(ctypes.byref(test)):
        raise SettingsError("memory ran out in the compiled kernel", remedy="use fewer threads")
    return {"loss": float(loss.sum() / data.count), "accuracy": int(hits.sum()) / data.count}
