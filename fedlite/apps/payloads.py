"""What leads a client from the version it holds to the current one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from fedlite.compress import mask_change
from fedlite.compress.ans import Ans
from fedlite.compress.codec import Codec
from fedlite.downlink import (
    Moves,
    Version,
    bundle,
    is_exact,
    merged,
    merged_size,
    moves_between,
    moves_of,
    snapshot,
    whole_masks,
)
from fedlite.errors import StateError
from fedlite.ledger.store import Ledger
from fedlite.tensors import size_bytes
from fedlite.types import Masks

_MOST_MOVES = 256 * 2**20  # bytes of steps kept as they were decoded

# Of moves, newest first, and ascending numbers of them: bytes of each sum of so many as coded by ANS, 0 where none is.
Summed = Callable[[Version, Sequence[Moves], Sequence[int]], NDArray[np.int64]]


@dataclass
class Recent:
    """What later payloads need again: what steps do, by the version they lead to, and masks as packed."""

    _moves: dict[int, Moves] = field(default_factory=dict)
    _bytes: int = 0
    _last: Version | None = None
    _masks: tuple[Masks, bytes] | None = None

    def masks(self, target: Version) -> bytes:
        """The target's, packed; packed anew only where it has others than the last one."""
        if self._masks is None or not mask_change.same(self._masks[0], target.masks):
            self._masks = target.masks, whole_masks(target)
        return self._masks[1]

    def of(self, number: int, step: Callable[[], bytes], target: Version, codec: Codec) -> Moves | None:
        """The moves of the step to that version, whose masks are the target's; None if that part is no step."""
        if (known := self._moves.get(number)) is not None:
            return known
        moves = self._newest(step, target) if number == target.number else None
        moves = moves or moves_of(step(), target, codec)
        if moves is not None:
            self._moves[number] = moves
            self._bytes += moves.places.nbytes + moves.values.nbytes
        while self._bytes > _MOST_MOVES and len(self._moves) > 1:
            old = self._moves.pop(min(self._moves))
            self._bytes -= old.places.nbytes + old.values.nbytes
        return moves

    def _newest(self, step: Callable[[], bytes], target: Version) -> Moves | None:
        """The moves of the step to the target; None where the version before it is not known."""
        before, self._last = self._last, target
        return moves_between(before, target, step()) if before is not None else None


@dataclass(frozen=True)
class Payloads:
    """The payloads of one round, each made, or measured, once."""

    ledger: Ledger
    target: Version
    codec: Codec
    recent: Recent
    _made: dict[int, bytes] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)

    def of(self, held: int) -> bytes:
        """The steps from version `held`, together where that is smaller, or the whole model if that is."""
        if held not in self._made:
            self._made[held] = self._make(held)
        return self._made[held]

    def size(self, held: int) -> int:
        """Bytes of that payload; without making it, where that can be."""
        if held not in self._sizes:
            exact = is_exact(self.codec)
            self._sizes[held] = len(self.of(held)) if exact else self._shorter(self._ways.get(held), held)
        return self._sizes[held]

    def measure(self, held: Iterable[int], summed: Summed) -> None:
        """Find the sizes of payloads from these versions at once, none made, where the codec is exact and ANS."""
        wanted = {each for each in held if each in self._ways} - self._sizes.keys()
        if not is_exact(self.codec) or self.codec.compressors != (Ans(),) or not wanted:
            return
        moves = list(self._since(min(wanted)))
        last = self.target.number - len(moves)  # nothing before it becomes one with what is after
        counts = sorted({count for each in wanted if (count := self.target.number - max(each, last)) > 1})
        bodies = dict(zip(counts, summed(self.target, moves, counts).tolist(), strict=True)) if counts else {}
        for each in wanted:
            count = self.target.number - max(each, last)
            size, apart = self._ways[each], self._ways[self.target.number - count]
            if body := bodies.get(count, 0):
                size += min(merged_size(moves[count - 1].mask_bytes, body) - apart, 0)
            self._sizes[each] = self._shorter(size, each)

    def _make(self, held: int) -> bytes:
        steps = self.ledger.steps(held, self.target.number) if held in self._ways else None
        if steps is None:
            return self._whole
        together = bundle(self._together(steps, held))
        return together if self._pays(len(together), held) else self._whole

    def _together(self, steps: list[bytes], held: int) -> list[bytes]:
        """The steps, the last of them as one where they can be and that is smaller."""
        moves = list(self._since(held)) if is_exact(self.codec) and len(steps) > 1 else []
        run = steps[len(steps) - len(moves) :]
        one = merged(run, moves[::-1], self.target, self.codec) if len(run) > 1 else None
        if one is None or len(one) >= sum(map(len, run)):
            return steps
        return [*steps[: len(steps) - len(run)], one]

    def _since(self, held: int) -> Iterator[Moves]:
        """The moves of the steps from a version on that can become one, newest first."""
        for number in range(self.target.number, held, -1):
            moves = self.recent.of(number, partial(self._step, number), self.target, self.codec)
            if moves is None:
                return
            yield moves
            if moves.mask_bytes:
                return

    def _step(self, number: int) -> bytes:
        steps = self.ledger.steps(number - 1, number)
        if steps is None:
            raise StateError(f"the step to version {number} is gone from the ledger")
        return steps[0]

    def _shorter(self, steps: int | None, held: int) -> int:
        """Bytes of what is sent, of steps that have so many, or are not kept."""
        return steps if steps is not None and self._pays(steps, held) else len(self._whole)

    def _pays(self, size: int, held: int) -> bool:
        """Whether that many bytes of steps are no more than the whole model; one step always pays."""
        one = self.target.number - held < 2
        return one or size <= size_bytes(self.target.params) // 2 or size <= len(self._whole)

    @cached_property
    def _ways(self) -> dict[int, int]:
        """Bytes of all the steps from a version to the target, of the versions from which on all are kept."""
        kept, total = self.ledger.step_sizes(), 0
        found = {self.target.number: total}
        for number in range(self.target.number, -1, -1):
            if number not in kept:
                break
            total += kept[number]
            found[number - 1] = total
        return found

    @cached_property
    def _whole(self) -> bytes:
        return snapshot(self.target, self.recent.masks(self.target))
