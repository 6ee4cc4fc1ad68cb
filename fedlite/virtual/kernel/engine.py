"""A cohort's local training in one call: `fedlite.train.local_train` of every client, to rounding."""

import ctypes
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlite.errors import SettingsError
from fedlite.seeds import derive_each
from fedlite.tensors import apply_masks
from fedlite.train import TrainResult
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Masks, Params, is_statistic
from fedlite.virtual.kernel import plan as planning
from fedlite.virtual.kernel.build import library
from fedlite.virtual.kernel.cohort import Cohort, cohort
from fedlite.virtual.kernel.layers import Layer, Program
from fedlite.virtual.rows import Trained, from_row, spans, to_row, width
from fedlite.virtual.samples import Picked, Samples

_FLOATS = (
    "learning_rate",
    "momentum",
    "weight_decay",
    "proximal_mu",
    "clip_norm",
    "distill_alpha",
    "temperature",
)
_POINTERS = ("start", "live", "x", "y", "teacher", "places", "count", "seeds", "trained", "loss", "hits")


class _Settings(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("epochs", "batch_size", "bits")),
        *((name, ctypes.c_float) for name in _FLOATS),
    )


class _Slot(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("start", "size", "to", "channels", "places"))


class _Job(ctypes.Structure):
    """As in src/job.hpp."""

    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        ("num_layers", ctypes.c_int64),
        ("slots", ctypes.POINTER(_Slot)),
        ("num_slots", ctypes.c_int64),
        ("settings", _Settings),
        *((name, ctypes.c_int64) for name in ("num_clients", "stride", "size", "relative")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("threads", ctypes.c_int64),
    )


def supports(model: nn.Module, settings: TrainSettings) -> str | None:
    """None when the kernel trains this model so; otherwise the reason, in a few words.

    A model's layers are read once: it must not gain others later.
    """
    if settings.optimizer != "sgd":
        return f"the optimizer is {settings.optimizer}"
    if settings.bits not in planning.BITS:
        return f"weights have {settings.bits} bits"
    if settings.arithmetic != "float":
        return f"the arithmetic is {settings.arithmetic}"
    if settings.autocast != "off":
        return f"autocast is {settings.autocast}"
    return planning.reason(model)


def train_cohort(
    model: nn.Module,
    params: Params,
    data: Sequence[Samples | Picked],
    settings: TrainSettings,
    *,
    seeds: Sequence[int],
    masks: Masks | None = None,
    threads: int | None = None,
) -> list[TrainResult]:
    """`local_train(model, params, x, y, settings, seed=seed, masks=masks)` for each (x, y) and seed.

    The bytes of a client's result depend on neither `threads` (≥ 1; all cores by default) nor the other
    clients. The results' arrays share one block of memory, which lives as long as any of them. All clients'
    weights are held at once: split a cohort that is too large for that. Raises as `local_train`, and
    SettingsError where `supports` or `available` say so.
    """
    start = np.tile(to_row(params), (len(data), 1))  # what training leaves alone stays as it is
    done = _train(model, params, data, settings, seeds, masks, threads, start, relative=False)
    return [
        TrainResult(from_row(row, params), float(loss), float(accuracy), int(count))
        for row, loss, accuracy, count in zip(
            done.updates, done.loss, done.accuracy, done.counts, strict=True
        )
    ]


def train_rows(
    model: nn.Module,
    params: Params,
    data: Sequence[Samples | Picked],
    settings: TrainSettings,
    *,
    seeds: Sequence[int],
    masks: Masks | None = None,
    threads: int | None = None,
) -> Trained:
    """As `train_cohort`, with the updates as rows: what was learned, less the pruned `params`."""
    rows: Array = np.empty((len(data), width(params)), np.float32)
    covered = {name for name in params if settings.bits == 8 or not is_statistic(name)}
    for name, span in spans(params):
        if name not in covered:
            rows[:, span] = 0
    return _train(model, params, data, settings, seeds, masks, threads, rows, relative=True)


def _train(
    model: nn.Module,
    params: Params,
    data: Sequence[Samples | Picked],
    settings: TrainSettings,
    seeds: Sequence[int],
    masks: Masks | None,
    threads: int | None,
    rows: Array,
    *,
    relative: bool,
) -> Trained:
    """Train into `rows`."""
    if reason := supports(model, settings):
        raise SettingsError(f"the compiled kernel cannot train this: {reason}", remedy="train with torch")
    if len(data) != len(seeds):
        raise SettingsError(f"{len(data)} clients and {len(seeds)} seeds; as many of both wanted")
    loss, hits = np.empty(len(data)), np.empty(len(data), np.int64)
    if not data:
        return Trained(rows, loss, loss, hits)
    plan = planning.plan(model, params, data[0][0].shape[1:], settings.bits)
    clients = cohort(data, data[0][0].shape[1:], plan.classes)
    slots = _slots(plan, params)
    arrays = {
        "start": planning.row(plan, apply_masks(params, masks or {})),
        "live": planning.row(plan, _live(params, masks)) if masks else None,
        "x": clients.x,
        "y": clients.y,
        "teacher": _lessons(settings, clients),
        "places": clients.places,
        "count": clients.counts,
        "seeds": _seeds(seeds, settings.epochs) if settings.batch_size else None,
        "trained": rows,
        "loss": loss,
        "hits": hits,
    }
    job = _Job(
        layers=plan.layers,
        num_layers=len(plan.layers),
        slots=slots,
        num_slots=len(slots),
        settings=_settings(settings, int(clients.counts.max())),
        num_clients=len(data),
        stride=plan.stride,
        size=rows.shape[1],
        relative=relative,
        threads=threads or planning.cores(),
        **{name: array if array is None else planning.address(array) for name, array in arrays.items()},
    )
    if library().fedlite_train(ctypes.byref(job)):
        raise SettingsError("memory ran out in the compiled kernel", remedy="train smaller batches")
    return Trained(rows, loss, hits / clients.counts, clients.counts)


def _lessons(settings: TrainSettings, clients: Cohort) -> NDArray[np.uint64] | None:
    """Addresses of a teacher's logits; None where the labels are all of the loss."""
    if settings.distill_alpha == 1:
        return None
    if clients.teacher is None:
        raise SettingsError(
            f"distill_alpha is {settings.distill_alpha}, but the clients have no teacher's logits"
        )
    return clients.teacher


def _seeds(seeds: Sequence[int], epochs: int) -> NDArray[np.uint64]:
    """(clients, epochs): of the streams that fedlite.train.batches draws from."""
    return np.stack([derive_each(seeds, after=("batches", epoch)) for epoch in range(epochs)], axis=1)


def _settings(settings: TrainSettings, most: int) -> _Settings:
    floats = {name: getattr(settings, name) for name in _FLOATS}
    return _Settings(settings.epochs, settings.batch_size or most, settings.bits, **floats)


def _live(params: Params, masks: Masks) -> Params:
    return {
        name: np.broadcast_to(masks.get(name, np.True_), value.shape).astype(np.float32)
        for name, value in params.items()
    }


def _slots(plan: Program, params: Params) -> "ctypes.Array[_Slot]":
    """Where each of the program's tensors goes in a row."""
    to = {name: span.start for name, span in spans(params)}
    slots = [
        _Slot(
            slot.start,
            slot.stop - slot.start,
            to[slot.name],
            slot.shape[1] if len(slot.shape) == 4 else 1,
            math.prod(slot.shape[2:]) if len(slot.shape) == 4 else 1,
        )
        for slot in plan.slots
    ]
    return (_Slot * len(slots))(*slots)
