"""What leads a client from the version it holds to the current one."""

from dataclasses import dataclass, field
from functools import cached_property

from fedlite.downlink import Version, bundle, snapshot
from fedlite.ledger.store import Ledger


@dataclass(frozen=True)
class Payloads:
    """The payloads of one round, each made once."""

    ledger: Ledger
    target: Version
    _made: dict[int, bytes] = field(default_factory=dict)

    def of(self, held: int) -> bytes:
        """The steps from version `held`, or the whole model if that is smaller or steps are gone."""
        if held not in self._made:
            now = self.target.number
            steps = self.ledger.steps(held, now) if 0 <= held <= now else None
            chain = bundle(steps) if steps is not None else self._whole
            shorter = steps is None or len(steps) < 2 or len(chain) <= len(self._whole)
            self._made[held] = chain if shorter else self._whole
        return self._made[held]

    @cached_property
    def _whole(self) -> bytes:
        return snapshot(self.target)
