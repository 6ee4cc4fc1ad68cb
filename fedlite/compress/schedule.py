"""When to prune how much: sparsity by round, and who decides on the masks of the model that a round made.

Masks change only in the rounds a schedule names; they follow from the arguments alone, so a server that resumes
makes the same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from fedlite.compress.prune import check_sparsity, check_weights, magnitude_masks, matches, table_masks
from fedlite.errors import SettingsError
from fedlite.types import Array, Masks, Params, is_statistic

Gradients = Mapping[str, Array]  # name → dense: at pruned coordinates too


class Pruner(Protocol):
    """Decides on masks, round by round. Those of fedlite.compress.prunefl and .rigl look at gradients."""

    def wants_gradients(self, round_num: int) -> bool:
        """Whether `masks` of this round will need gradients at all coordinates."""

    def masks(self, round_num: int, params: Params, held: Masks, gradients: Gradients | None = None) -> Masks:
        """The masks of the model `params` that round `round_num` made; round 0 is before the first."""


class Schedule(Protocol):
    """Sparsity by round; it never falls."""

    @property
    def final(self) -> float:
        """The sparsity at the end."""

    def due(self, round_num: int, held: Masks) -> bool:
        """Whether masks may change in this round."""

    def sparsity(self, round_num: int) -> float:
        """In [0, 1), from this round until the next that is due."""


@dataclass(frozen=True)
class OneShot:
    """All at once: in the first round from `at_round` on that has no masks yet, held from then on.

    `OneShot(s)` prunes before training and is constant. SettingsError unless 0 ≤ final < 1 and at_round ≥ 0.
    """

    final: float
    at_round: int = 0

    def __post_init__(self) -> None:
        check_sparsity(self.final)
        if self.at_round < 0:
            raise SettingsError(f"prune round is {self.at_round}, at least 0 wanted")

    def due(self, round_num: int, held: Masks) -> bool:
        """Once."""
        return round_num >= self.at_round and not held

    def sparsity(self, round_num: int) -> float:
        """0, then `final`."""
        return self.final if round_num >= self.at_round else 0.0


@dataclass(frozen=True)
class Cubic:
    """Fast at first, when many weights are spare, and slower towards the end. (Zhu & Gupta 2017, equation 1)

    s_t = s_f + (s_i − s_f) (1 − (t − t_0) / (n Δt))³ in rounds t_0 = begin, begin + every, …, end = t_0 + n Δt.
    SettingsError unless 0 ≤ initial ≤ final < 1, 0 ≤ begin < end, and `every` divides end − begin.
    """

    final: float
    begin: int
    end: int
    every: int = 1
    initial: float = 0.0

    def __post_init__(self) -> None:
        check_sparsity(self.initial)
        check_sparsity(self.final)
        if self.initial > self.final:
            raise SettingsError(f"sparsity begins at {self.initial}, above its final {self.final}")
        if not 0 <= self.begin < self.end:
            raise SettingsError(
                f"pruning lasts from round {self.begin} to {self.end}; 0 ≤ begin < end wanted"
            )
        if self.every < 1 or (self.end - self.begin) % self.every:
            raise SettingsError(
                f"{self.end - self.begin} rounds are not pruned every {self.every}; a divisor is wanted"
            )

    def due(self, round_num: int, held: Masks) -> bool:
        """From `begin` to `end`, every `every` rounds."""
        return self.begin <= round_num <= self.end and (round_num - self.begin) % self.every == 0

    def sparsity(self, round_num: int) -> float:
        """0 before `begin`; equation 1 at the last round that was due."""
        if round_num < self.begin:
            return 0.0
        done = (min(round_num, self.end) - self.begin) // self.every * self.every
        rest = 1 - done / (self.end - self.begin)
        return self.final + (self.initial - self.final) * rest**3


@dataclass(frozen=True)
class Gradual:
    """Magnitude pruning by a schedule: what was pruned stays pruned.

    `keep` holds patterns of layers to leave alone. With a `table` of (pattern, final sparsity), as
    `prune.table_masks` reads it, each layer goes to its own, as far as the schedule has gone to its final.
    """

    schedule: Schedule
    scope: Literal["global", "layer"] = "global"
    keep: tuple[str, ...] = ()
    table: tuple[tuple[str, float], ...] = ()

    def wants_gradients(self, round_num: int) -> bool:
        """Never."""
        return False

    def masks(self, round_num: int, params: Params, held: Masks, gradients: Gradients | None = None) -> Masks:
        """New masks in rounds that are due, else those held. Raises as `prune.magnitude_masks`."""
        sparsity = self.schedule.sparsity(round_num)
        if sparsity == 0 or not self.schedule.due(round_num, held):
            return held
        if self.table:
            share = sparsity / self.schedule.final
            return table_masks(params, {name: most * share for name, most in self.table}, held=held)
        return magnitude_masks(params, sparsity, scope=self.scope, keep=self._kept, held=held)

    def _kept(self, name: str) -> bool:
        return any(matches(name, pattern) for pattern in self.keep)


@dataclass(frozen=True)
class Late:
    """Another pruner, whose round 0 is this run's round `begin`: until then nothing is pruned."""

    pruner: Pruner
    begin: int

    def wants_gradients(self, round_num: int) -> bool:
        """The other's, later."""
        return round_num > self.begin and self.pruner.wants_gradients(round_num - self.begin)

    def masks(self, round_num: int, params: Params, held: Masks, gradients: Gradients | None = None) -> Masks:
        """The other's, later."""
        if round_num < self.begin:
            return {}
        return self.pruner.masks(round_num - self.begin, params, held, gradients)


def given(gradients: Gradients | None, round_num: int) -> Gradients:
    """The gradients. SettingsError if there are none."""
    if gradients is None:
        raise SettingsError(f"round {round_num} moves the masks and has no gradients to move them by")
    return gradients


def check_dense(params: Params, gradients: Gradients, masks: Masks) -> None:
    """SettingsError unless gradients fit all learned tensors, masks fit theirs, and all is finite."""
    learned = {name for name in params if not is_statistic(name)}
    if odd := (set(gradients) ^ learned) or (set(masks) - learned):
        raise SettingsError(f"gradients or masks are not those of the model's layers: {sorted(odd)[:3]}")
    for name, value in [*gradients.items(), *masks.items()]:
        if value.shape != params[name].shape:
            raise SettingsError(f"{name!r} is {value.shape}, the model has {params[name].shape}")
    check_weights(gradients)
    check_weights({name: params[name] for name in masks})
