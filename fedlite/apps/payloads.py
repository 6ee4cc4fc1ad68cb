"""What leads a client from the version it holds to the current one."""

from dataclasses import dataclass, field
from functools import cached_property

from fedlite.compress import mask_change
from fedlite.compress.codec import Codec
from fedlite.downlink import (
    Moves,
    Version,
    bundle,
    changes_masks,
    is_exact,
    merged,
    moves_of,
    snapshot,
    whole_masks,
)
from fedlite.ledger.store import Ledger
from fedlite.tensors import size_bytes
from fedlite.types import Masks

_MOST_MOVES = 256 * 2**20  # bytes of steps kept as they were decoded


@dataclass
class Recent:
    """What later payloads need again: steps as they were decoded, by the version they lead to, and masks as packed."""

    _moves: dict[int, Moves] = field(default_factory=dict)
    _bytes: int = 0
    _masks: tuple[Masks, bytes] | None = None

    def masks(self, target: Version) -> bytes:
        """The target's, packed; packed anew only where it has others than the last one."""
        if self._masks is None or not mask_change.same(self._masks[0], target.masks):
            self._masks = target.masks, whole_masks(target)
        return self._masks[1]

    def of(self, step: bytes, number: int, target: Version, codec: Codec) -> Moves | None:
        """The moves of that step, whose masks are the target's."""
        if number not in self._moves:
            moves = moves_of(step, target, codec)
            if moves is None:
                return None
            self._moves[number] = moves
            self._bytes += moves.places.nbytes + moves.values.nbytes
            while self._bytes > _MOST_MOVES and len(self._moves) > 1:
                old = self._moves.pop(min(self._moves))
                self._bytes -= old.places.nbytes + old.values.nbytes
                if number not in self._moves:
                    return moves
        return self._moves[number]


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
            if is_exact(self.codec):
                self._sizes[held] = len(self.of(held))
            else:
                steps = self._ways.get(held, -1)
                pays = steps >= 0 and self._pays(steps, held)
                self._sizes[held] = steps if pays else len(self._whole)
        return self._sizes[held]

    def _make(self, held: int) -> bytes:
        steps = self.ledger.steps(held, self.target.number) if held in self._ways else None
        if steps is None:
            return self._whole
        together = bundle(self._together(steps))
        return together if self._pays(len(together), held) else self._whole

    def _together(self, steps: list[bytes]) -> list[bytes]:
        """The steps, the last of them as one where they can be and that is smaller."""
        if not is_exact(self.codec) or len(steps) < 2:
            return steps
        begin = next((place for place in range(len(steps) - 1, -1, -1) if changes_masks(steps[place])), 0)
        numbers = range(self.target.number - len(steps) + 1, self.target.number + 1)
        run, moves = list[bytes](), list[Moves]()
        for step, number in zip(steps[begin:], numbers[begin:], strict=True):
            found = self.recent.of(step, number, self.target, self.codec)
            if found is not None:
                run.append(step)
                moves.append(found)
        one = merged(run, moves, self.target, self.codec) if len(run) > 1 else None
        if one is None or len(one) >= sum(map(len, run)):
            return steps
        return [*steps[: len(steps) - len(run)], one]

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
