"""A cohort's local training in one call: `fedlite.train.local_train` of every client, to rounding."""

import ctypes
import math
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlite.compress import quantize
from fedlite.errors import DataError, SettingsError
from fedlite.models.bridge import layout
from fedlite.tensors import apply_masks, check_like
from fedlite.train import TrainResult, batches
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Masks, Params, is_statistic
from fedlite.virtual.kernel.build import library
from fedlite.virtual.kernel.layers import ALIGNMENT, Block, Layer, Program, blocks, program
from fedlite.virtual.rows import Trained, from_row, spans, to_row, width

Client = tuple[NDArray[Any], NDArray[Any]]

_FLOATS = ("learning_rate", "momentum", "weight_decay", "proximal_mu", "clip_norm")
_POINTERS = ("start", "live", "x", "y", "order", "count", "trained", "loss", "hits")


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


@dataclass
class _Known:
    """What was found out about a model: its chain, or why there is none; programs and layouts by use."""

    chain: tuple[Block, ...] | str
    programs: dict[tuple[tuple[int, ...], int], Program]
    layouts: dict[int, Params]


_known: "weakref.WeakKeyDictionary[nn.Module, _Known]" = weakref.WeakKeyDictionary()


def supports(model: nn.Module, settings: TrainSettings) -> str | None:
    """None when the kernel trains this model so; otherwise the reason, in a few words.

    A model's layers are read once: it must not gain others later.
    """
    if settings.optimizer != "sgd":
        return f"the optimizer is {settings.optimizer}"
    chain = _about(model).chain
    return chain if isinstance(chain, str) else None


def train_cohort(
    model: nn.Module,
    params: Params,
    data: Sequence[Client],
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
    data: Sequence[Client],
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
    data: Sequence[Client],
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
    plan = _plan(model, params, data[0][0].shape[1:], settings.bits)
    clients = [_checked(x, y, data[0][0].shape[1:], plan.classes) for x, y in data]
    counts = np.array([len(y) for _, y in clients], np.int64)
    orders = [_order(len(y), settings, seed) for (_, y), seed in zip(clients, seeds, strict=True)]
    slots = _slots(plan, params)
    arrays = {
        "start": _row(plan, apply_masks(params, masks or {})),
        "live": _row(plan, _live(params, masks)) if masks else None,
        "x": _addresses([x for x, _ in clients]),
        "y": _addresses([y for _, y in clients]),
        "order": _addresses(orders),
        "count": counts,
        "trained": rows,
        "loss": loss,
        "hits": hits,
    }
    job = _Job(
        layers=plan.layers,
        num_layers=len(plan.layers),
        slots=slots,
        num_slots=len(slots),
        settings=_settings(settings, int(counts.max())),
        num_clients=len(data),
        stride=plan.stride,
        size=rows.shape[1],
        relative=relative,
        threads=threads or _cores(),
        **{name: array if array is None else _address(array) for name, array in arrays.items()},
    )
    if library().fedlite_train(ctypes.byref(job)):
        raise SettingsError("memory ran out in the compiled kernel", remedy="train smaller batches")
    return Trained(rows, loss, hits / counts, counts)


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _about(model: nn.Module) -> _Known:
    if model not in _known:
        try:
            chain: tuple[Block, ...] | str = blocks(model)
        except SettingsError as error:
            chain = str(error.args[0])
        _known[model] = _Known(chain, {}, {})
    return _known[model]


def _plan(model: nn.Module, params: Params, shape: tuple[int, ...], bits: int) -> Program:
    """The program for examples of `shape`; UpdateError unless `params` fit the model at `bits`."""
    known = _about(model)
    assert not isinstance(known.chain, str)
    if bits not in known.layouts:
        known.layouts[bits] = layout(quantize.at(model, bits))
    learned = {name: value for name, value in params.items() if bits == 8 or not is_statistic(name)}
    check_like(learned, known.layouts[bits], "params")
    if (shape, bits) not in known.programs:
        known.programs[shape, bits] = program(known.chain, shape, bits)
    return known.programs[shape, bits]


def _checked(x: NDArray[Any], y: NDArray[Any], shape: tuple[int, ...], classes: int) -> Client:
    """The client's data as the kernel reads them. DataError as `local_train`'s."""
    if len(x) != len(y) or len(y) == 0:
        raise DataError(
            f"there are {len(x)} examples and {len(y)} labels; as many of both, at least one, wanted"
        )
    if x.shape[1:] != shape or x.dtype != np.float32:
        raise DataError(f"the cohort's examples are float32 {shape}, these are {x.dtype} {x.shape[1:]}")
    labels = np.ascontiguousarray(y, np.int64)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"labels run from {low} to {high}; the model has classes 0 to {classes - 1}")
    return np.ascontiguousarray(x), labels


def _order(count: int, settings: TrainSettings, seed: int) -> NDArray[np.int64]:
    """All epochs' examples as `batches` draws them; cut into batches, an epoch is the same permutation."""
    whole = count if settings.batch_size else 0
    epochs = [next(batches(count, whole, seed, epoch)) for epoch in range(settings.epochs)]
    return np.concatenate(epochs) if len(epochs) > 1 else epochs[0]


def _settings(settings: TrainSettings, most: int) -> _Settings:
    floats = {name: getattr(settings, name) for name in _FLOATS}
    return _Settings(settings.epochs, settings.batch_size or most, settings.bits, **floats)


def _live(params: Params, masks: Masks | None) -> Params:
    return apply_masks({name: np.ones_like(value) for name, value in params.items()}, masks or {})


def _row(plan: Program, values: Params) -> Array:
    """The tensors in one row, convolutions' channels last."""
    row: Array = _floats(1, plan.stride)[0]
    row[:] = 0
    for slot in plan.slots:
        value = values[slot.name]
        row[slot.start : slot.stop] = (value.transpose(0, 2, 3, 1) if value.ndim == 4 else value).ravel()
    return row


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


def _floats(rows: int, columns: int) -> Array:
    """Uninitialised rows that begin on cache lines, with one to spare after the last."""
    block = np.empty(rows * columns + 2 * ALIGNMENT, np.float32)
    skip = -(_address(block) // 4) % ALIGNMENT
    used: Array = block[skip : skip + rows * columns]
    return used.reshape(rows, columns)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _addresses(arrays: Sequence[NDArray[Any]]) -> NDArray[np.uint64]:
    return np.array([_address(array) for array in arrays], np.uint64)
