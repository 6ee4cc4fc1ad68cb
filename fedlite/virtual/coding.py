"""A block of clients' updates through a codec: what `encode_with_feedback` and `decode` give each of them.

The bits do not depend on the block. What is neither int8 nor a step by a compiled coder goes client by client.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import zstandard
from numpy.typing import NDArray

from fedlite.compress.ans import Ans
from fedlite.compress.codec import OVERHEAD, Codec, encode_with_feedback
from fedlite.compress.int8 import Int8
from fedlite.compress.layout import Layout, layout_of
from fedlite.compress.planes import size_of
from fedlite.compress.rate import check_adjustable, fit
from fedlite.compress.step import Step
from fedlite.compress.zstd import Zstd
from fedlite.errors import SettingsError, UpdateError
from fedlite.seeds import generator
from fedlite.types import Array, Masks, Params, Update, is_statistic
from fedlite.virtual.fitted import Budgets, Rows, fit_rows
from fedlite.virtual.kernel.build import available
from fedlite.virtual.kernel.int8 import bodies_of, pieces_of
from fedlite.virtual.kernel.reduce import largest_rows
from fedlite.virtual.kernel.steps import code_steps, spans_of

Bodies = list[bytes | bytearray | memoryview]

AT_ONCE = 4 << 20  # bytes of bodies held at a time


@dataclass(frozen=True, eq=False)
class Coded:
    """What coding gives a block of B clients.

    `sizes` (B): bytes of each payload. `decoded` (B, size): what the server reads in it. `residual` (B, size +
    memory): what each client owes afterwards, and what the codec's filters remember of it; None for a lossless codec.
    `finite` (B): False where a value is NaN or infinite, which `encode` refuses: size and decoded are then 0, and what
    was owed is still owed. So it is for the `failed`, with the reason, which a budget does not suffice for.
    `deviations` (B) are the steps chosen; None without budgets.
    """

    sizes: NDArray[np.int64]
    decoded: Array
    residual: Array | None
    finite: NDArray[np.bool_]
    deviations: NDArray[np.float64] | None = None
    failed: Mapping[int, str] = field(default_factory=dict)


def code_rows(
    codec: Codec,
    rows: Array,
    owed: Array | None,
    *,
    like: Params,
    masks: Masks,
    seeds: Sequence[int],
    threads: int = 1,
    budgets: Budgets | None = None,
) -> Coded:
    """`encode_with_feedback` and `decode` of each row (B, size), tensors in the order of `like`.

    `rows` and `owed` (B, size + memory) are used up: the result lies in their memory. Without `owed` nobody owes
    anything; a row of zeros in it is a client that owes nothing. `seeds` are the clients' own, for a codec that draws.
    With `budgets`, `rate.fit` of each row. Raises SettingsError for masks that do not fit the model, and for budgets
    with a codec that has no step to choose.
    """
    if budgets is not None:
        check_adjustable(codec)
    if codec.lossless:
        return _lossless(codec, rows, owed, like, masks, threads)
    serializer = codec.serializer
    if type(serializer) is Int8 and not (codec.filters or serializer.stochastic) and available() is None:
        return _int8(codec, serializer, rows, owed, like, masks, threads)
    if type(serializer) is Step and _in_steps(codec, serializer) and available() is None:
        return _step(codec, serializer, rows, owed, like, masks, threads, budgets)
    return _one_by_one(codec, rows, owed, like, masks, seeds, budgets)


def _in_steps(codec: Codec, step: Step) -> bool:
    """Whether the compiled coder knows all of this codec."""
    plain = Step(step.deviations, step.dead_zone)
    return not codec.filters and step == plain and codec.compressors == (Ans(),)


def _step(
    codec: Codec,
    step: Step,
    rows: Array,
    owed: Array | None,
    like: Params,
    masks: Masks,
    threads: int,
    budgets: Budgets | None,
) -> Coded:
    residual = np.empty_like(rows) if owed is None else owed
    finite, spans = np.empty(len(rows), np.uint8), spans_of(like, masks)
    if budgets is not None:
        found = fit_rows(codec, Rows(spans, rows, owed, residual, finite), budgets, threads)
        return Coded(found.sizes, rows, residual, finite > 0, found.deviations, found.failed)
    sizes = code_steps(step, spans, rows, owed, residual, finite, threads)
    return _coded([sizes], rows, residual, finite > 0)


def _int8(
    codec: Codec, serializer: Int8, rows: Array, owed: Array | None, like: Params, masks: Masks, threads: int
) -> Coded:
    layout = layout_of(like, masks)
    pieces = pieces_of(like, masks, per_channel=serializer.per_channel)
    residual = np.empty_like(rows) if owed is None else owed
    finite = np.empty(len(rows), np.uint8)
    most = max(threads, AT_ONCE // (pieces.body + 1))
    sizes = [
        _compressed(codec, layout, [memoryview(body) for body in bodies], threads)
        for bodies in bodies_of(pieces, rows, owed, residual, finite, most=most, threads=threads)
    ]
    return _coded(sizes, rows, residual, finite > 0)


def _lossless(
    codec: Codec, rows: Array, owed: Array | None, like: Params, masks: Masks, threads: int
) -> Coded:
    """Only the sizes are computed, and only if they differ."""
    layout, order = layout_of(like, masks), order_of(like, masks)
    if owed is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            rows += owed
    finite = np.isfinite(largest_rows(rows, threads)) if rows.size else np.ones(len(rows), np.bool_)
    rows[~finite] = 0
    if len(order) < rows.shape[1]:
        kept, bits = np.zeros(rows.shape[1], np.uint32), rows.view(np.uint32)
        kept[order] = ~np.uint32(0)
        bits &= kept  # as numbers, times 0, they could be −0
    if not codec.compressors:
        sizes = np.full(len(rows), size_of(codec.serializer.planes(layout)), np.int64)
        return _coded([sizes], rows, None, finite)
    most = max(threads, AT_ONCE // (size_of(codec.serializer.planes(layout)) + 1))
    split = layout.weights
    blocks: list[Bodies] = [
        [
            codec.serializer.dump(row[order[:split]], row[order[split:]], layout, None)
            for row in rows[begin : begin + most]
        ]
        for begin in range(0, len(rows), most)
    ]
    return _coded([_compressed(codec, layout, block, threads) for block in blocks], rows, None, finite)


def _one_by_one(
    codec: Codec,
    rows: Array,
    owed: Array | None,
    like: Params,
    masks: Masks,
    seeds: Sequence[int],
    budgets: Budgets | None,
) -> Coded:
    layout_of(like, masks)  # so that only a budget can be too small
    kept = {name: np.zeros(shape, np.float32) for name, shape in codec.memory(like).items()}
    whole = {**like, **kept}
    size = rows.shape[1] + memory_width(codec, like)
    residual: Array = np.zeros((len(rows), size), np.float32) if owed is None else owed
    finite, sizes = np.ones(len(rows), np.bool_), np.zeros(len(rows), np.int64)
    deviations, failed = np.zeros(len(rows)), dict[int, str]()
    for b, seed in enumerate(seeds):
        before = None if owed is None else _named(owed[b], whole)
        chance = generator(seed, "codec")
        try:
            payload, rest, deviations[b] = _encoded(
                codec,
                _named(rows[b], like),
                before,
                masks,
                chance,
                None if budgets is None else budgets.of(b),
            )
        except UpdateError:
            rows[b], finite[b] = 0, False
            continue
        except SettingsError as error:
            rows[b], finite[b], failed[b] = 0, False, str(error)
            continue
        sizes[b] = len(payload) - OVERHEAD
        _put(codec.decode(payload, like, masks=masks), rows[b])
        _put({name: rest.get(name, zeros) for name, zeros in whole.items()}, residual[b])
    coded = _coded([sizes], rows, residual, finite)
    return coded if budgets is None else replace(coded, deviations=deviations, failed=failed)


def _encoded(
    codec: Codec,
    update: Update,
    owed: Update | None,
    masks: Masks,
    chance: np.random.Generator,
    budget: tuple[int, int] | None,
) -> tuple[bytes, dict[str, Array], float]:
    """(payload, new residual, deviations chosen or 0); `budget` is (bytes in all, those that are no payload)."""
    if budget is None or not budget[0]:
        return *encode_with_feedback(codec, update, owed, masks=masks, generator=chance), 0.0
    most, overhead = budget
    return fit(codec, update, owed, most, overhead=overhead, masks=masks, generator=chance)


def _coded(
    bodies: list[NDArray[np.int64]], rows: Array, residual: Array | None, finite: NDArray[np.bool_]
) -> Coded:
    sizes = np.concatenate([np.zeros(0, np.int64), *bodies])
    return Coded(np.where(finite, sizes + OVERHEAD, 0), rows, residual, finite)


def _compressed(codec: Codec, layout: Layout, bodies: Bodies, threads: int) -> NDArray[np.int64]:
    """How long each body is after the compressors."""
    first = codec.compressors[0] if codec.compressors else None
    if type(first) is Zstd and len(codec.compressors) == 1 and len(bodies[0]) > 0:
        return _zstd_sizes(first, bodies, threads)
    return np.array([len(codec.squeeze(bytes(body), layout)) for body in bodies], np.int64)


def _zstd_sizes(zstd: Zstd, bodies: Bodies, threads: int) -> NDArray[np.int64]:
    """Of the frames `zstd.compress` writes, by threads: the library's own (zstandard 0.25) are slower than none."""

    def sizes(begin: int) -> list[int]:
        compressor = zstandard.ZstdCompressor(zstd.level, write_checksum=False)
        return [len(compressor.compress(body)) for body in bodies[begin : begin + each]]

    each = -(-len(bodies) // threads)
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(sizes, range(0, len(bodies), each))
        return np.array([size for part in parts for size in part], np.int64)


def memory_width(codec: Codec, like: Params) -> int:
    """Floats that the codec's filters remember of each client: behind what it owes, in its row."""
    return sum(math.prod(shape) for shape in codec.memory(like).values())


def order_of(like: Params, masks: Masks) -> NDArray[np.int64]:
    """Where a row holds what travels: live weights, then statistics."""
    found: tuple[list[NDArray[np.int64]], ...] = ([np.zeros(0, np.int64)], [])
    start = 0
    for name, value in like.items():
        live = np.flatnonzero(masks[name]) if name in masks else np.arange(value.size)
        found[is_statistic(name)].append(live + start)
        start += value.size
    return np.concatenate([*found[False], *found[True]])


def _spans(like: Params) -> Iterator[tuple[str, tuple[int, ...], slice]]:
    start = 0
    for name, value in like.items():
        yield name, value.shape, slice(start, start := start + value.size)


def _named(row: Array, like: Params) -> dict[str, Array]:
    return {name: row[span].reshape(shape) for name, shape, span in _spans(like)}


def _put(update: Update, row: Array) -> None:
    for name, _, span in _spans(update):
        row[span] = update[name].reshape(-1)
