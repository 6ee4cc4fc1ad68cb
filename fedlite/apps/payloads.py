"""What leads a client from the version it holds to the current one."""

from dataclasses import dataclass, field
from functools import cached_property

from fedlite.compress.codec import Codec
from fedlite.downlink import (
    WHOLE_WANTED,
    Moves,
    Version,
    bundle,
    changes_masks,
    is_exact,
    merged,
    moves_of,
    snapshot,
)
from fedlite.ledger.store import Ledger
from fedlite.tensors import size_bytes

_MOST_MOVES = 256 * 2**20  # bytes of steps kept as they were decoded


@dataclass
class Recent:
    """Steps as they were decoded, by the version they lead to: later payloads add them up again."""

    _moves: dict[int, Moves] = field(default_factory=dict)
    _bytes: int = 0

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
                pays = self._there(held) and self._pay(sum(self._steps(held)), len(self._steps(held)))
                self._sizes[held] = sum(self._steps(held)) if pays else len(self._whole)
        return self._sizes[held]

    def _make(self, held: int) -> bytes:
        steps = self.ledger.steps(held, self.target.number) if self._there(held) else None
        if steps is None:
            return self._whole
        together = bundle(self._together(steps))
        return together if self._pay(len(together), len(steps)) else self._whole

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

    def _there(self, held: int) -> bool:
        """Whether all the steps from that version on are kept."""
        now = self.target.number
        return WHOLE_WANTED < held <= now and len(self._steps(held)) == now - held

    def _pay(self, size: int, count: int) -> bool:
        """Whether that many bytes of steps are no more than the whole model; one step always pays."""
        return count < 2 or size <= size_bytes(self.target.params) // 2 or size <= len(self._whole)

    def _steps(self, held: int) -> list[int]:
        """Bytes of the steps from a version on, as far as they are kept."""
        return [size for number, size in self._kept.items() if held < number <= self.target.number]

    @cached_property
    def _kept(self) -> dict[int, int]:
        return self.ledger.step_sizes()

    @cached_property
    def _whole(self) -> bytes:
        return snapshot(self.target)
