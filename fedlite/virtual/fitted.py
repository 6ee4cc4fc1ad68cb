"""Clients with budgets through the compiled coder: each with the step that `fedlite.compress.rate` chooses for it.

A client's search is one thread's: what it chooses depends on nothing but its own row.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.codec import OVERHEAD, Codec
from fedlite.compress.rate import choose, too_small, with_deviations
from fedlite.compress.step import Step
from fedlite.errors import SettingsError
from fedlite.types import Array
from fedlite.virtual.kernel.steps import Spans, code_steps


@dataclass(frozen=True, eq=False)
class Budgets:
    """Of B clients: `most` bytes of a report, 0 where there is no limit, and `overhead`, those that are no payload."""

    most: NDArray[np.int64]
    overhead: NDArray[np.int64]

    def of(self, client: int) -> tuple[int, int]:
        """One's."""
        return int(self.most[client]), int(self.overhead[client])


@dataclass(frozen=True, eq=False)
class Rows:
    """B clients' as `code_steps` takes them: `values` in, what the server decodes out."""

    spans: Spans
    values: Array
    owed: Array | None
    residual: Array
    finite: NDArray[np.uint8]

    def copy(self, client: int) -> "Rows":
        """One of them, to try something on."""
        own = slice(client, client + 1)
        values, owed = self.values[own].copy(), None if self.owed is None else self.owed[own].copy()
        return Rows(self.spans, values, owed, np.empty_like(values), self.finite[own].copy())

    def one(self, client: int) -> "Rows":
        """One of them, in place."""
        own = slice(client, client + 1)
        owed = None if self.owed is None else self.owed[own]
        return Rows(self.spans, self.values[own], owed, self.residual[own], self.finite[own])

    def is_finite(self, client: int) -> bool:
        """Whether what one of them is to send is."""
        with np.errstate(over="ignore", invalid="ignore"):
            whole = self.values[client] if self.owed is None else self.values[client] + self.owed[client]
        return bool(np.isfinite(whole).all())

    def size(self, codec: Codec) -> int:
        """Code them, and say how many bytes the first one's payload has; 0 where a sum is not finite."""
        assert isinstance(codec.serializer, Step)
        sizes = code_steps(
            codec.serializer, self.spans, self.values, self.owed, self.residual, self.finite, 1
        )
        return int(sizes[0]) + OVERHEAD if self.finite[0] else 0


@dataclass(frozen=True, eq=False)
class Fitted:
    """Of B clients: bytes of each payload, the `deviations` chosen, and why each of the `failed` has no payload."""

    sizes: NDArray[np.int64]
    deviations: NDArray[np.float64]
    failed: dict[int, str]


def fit_rows(codec: Codec, rows: Rows, budgets: Budgets, threads: int) -> Fitted:
    """`rate.fit` of each client, in place; who fails is not finite, and owes what it did."""
    assert isinstance(codec.serializer, Step)
    count = len(rows.values)
    found = Fitted(np.zeros(count, np.int64), np.full(count, float(codec.serializer.deviations)), {})

    def fit(client: int) -> None:
        try:
            best = _best(codec, rows, client, *budgets.of(client))
        except SettingsError as error:
            found.failed[client], rows.finite[client], rows.values[client] = str(error), 0, 0
            if rows.owed is None:
                rows.residual[client] = 0
            return
        assert isinstance(best.serializer, Step)
        found.deviations[client] = best.serializer.deviations
        found.sizes[client] = rows.one(client).size(best)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fit, range(count)):
            pass
    return found


def _best(codec: Codec, rows: Rows, client: int, budget: int, overhead: int) -> Codec:
    """The codec this client takes. SettingsError where nothing fits into its budget."""
    if not budget or not rows.is_finite(client):
        return codec
    chosen = choose(codec, budget - overhead, lambda trial: rows.copy(client).size(trial))
    if chosen.payload_bytes + overhead > budget:
        raise too_small(budget, chosen.payload_bytes + overhead)
    return with_deviations(codec, chosen.deviations)
