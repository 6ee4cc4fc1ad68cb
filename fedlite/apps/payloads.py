"""What leads a client from the version it holds to the current one."""

from dataclasses import dataclass, field
from functools import cached_property

from fedlite.downlink import Version, bundle, snapshot
from fedlite.ledger.store import Ledger


@dataclass(frozen=True)
class Payloads:
    """The payloads of one round, each made, or measured, once."""

    ledger: Ledger
    target: Version
    _made: dict[int, bytes] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)

    def of(self, held: int) -> bytes:
        """The steps from version `held`, or the whole model if that is smaller or steps are gone."""
        if held not in self._made:
            steps = self.ledger.steps(held, self.target.number) if self._steps_pay(held) else None
            self._made[held] = self._whole if steps is None else bundle(steps)
        return self._made[held]

    def size(self, held: int) -> int:
        """Bytes of that payload, without making it."""
        if held not in self._sizes:
            self._sizes[held] = sum(self._steps(held)) if self._steps_pay(held) else len(self._whole)
        return self._sizes[held]

    def _steps_pay(self, held: int) -> bool:
        """Whether all the steps are there, and no more than the whole model; one step always pays."""
        now = self.target.number
        steps = self._steps(held)
        there = 0 <= held <= now and len(steps) == now - held
        return there and (len(steps) < 2 or sum(steps) <= len(self._whole))

    def _steps(self, held: int) -> list[int]:
        """Bytes of the steps from a version on, as far as they are kept."""
        return [size for number, size in self._kept.items() if held < number <= self.target.number]

    @cached_property
    def _kept(self) -> dict[int, int]:
        return self.ledger.step_sizes()

    @cached_property
    def _whole(self) -> bytes:
        return snapshot(self.target)
