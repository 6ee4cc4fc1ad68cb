"""How long the steps of an exact codec are as one (`fedlite.downlink`), for many versions that clients hold at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlite.downlink import Moves, Version
from fedlite.types import Array
from fedlite.virtual.coding import order_of
from fedlite.virtual.kernel.steps import spans_of, sum_sizes

_MOST_BYTES = 64 << 20  # of sums held at a time


def summed(
    target: Version, moves: Sequence[Moves], counts: Sequence[int], *, threads: int = 1
) -> NDArray[np.int64]:
    """(counts): bytes of the body of the sum of the first so many moves, newest first; 0 where it is not exact.

    `counts` ascend. All steps but the last of a sum leave masks as `target` has them.
    """
    order, newest = order_of(target.params, target.masks), moves[0]
    split, size = len(order) - len(newest.statistics), sum(each.size for each in target.params.values())
    spans, most = spans_of(target.params, target.masks), max(_MOST_BYTES // (4 * size + 1), 1)
    total, done, sizes = np.zeros(size, np.float32), 0, [np.zeros(0, np.int64)]
    total[order[split:]] = newest.statistics
    for begin in range(0, len(counts), most):
        some = counts[begin : begin + most]
        rows: Array = np.empty((len(some), size), np.float32)
        for row, count in zip(rows, some, strict=True):
            for each in moves[done:count]:
                total[order[each.places]] += each.values
            row[:], done = total, count
        sizes.append(sum_sizes(spans, rows, threads))
    return np.concatenate(sizes)
