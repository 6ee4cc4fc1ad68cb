"""The best candidate within a budget: those that fit, then a contest of short trainings.

Source: successive halving, Jamieson & Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", Figure 3, with the factor 3 of Li et al. 2018, "Hyperband", §3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedlite.errors import SettingsError
from fedlite.profile.budget import Kind, Limit
from fedlite.profile.candidates import Candidate
from fedlite.profile.unknown import Unknown

NOT_ASKED = "not measured: enough larger ones fit"
ETA = 3  # of the candidates in a rung one in three goes on, and trains three times as long

Measure = Callable[[Kind, Candidate], float | Unknown]
Score = Callable[[Candidate, int], float]


@dataclass(frozen=True)
class Standing:
    """A candidate, what is known of it, and which limit it does not keep ("" if it keeps all)."""

    candidate: Candidate
    figures: Mapping[str, float]
    misses: str = ""
    accuracy: Mapping[int, float] = field(default_factory=dict)  # after so many epochs


def within(
    candidates: Sequence[Candidate], limits: Sequence[Limit], measure: Measure, enough: int
) -> list[Standing]:
    """The candidates in their order, measured until `enough` of them keep every limit.

    What is free is asked of all, what takes time of each in turn until one of its limits is broken; what comes after
    the last one needed misses by not being asked. SettingsError, with the smallest there is, if none keeps them all.
    """
    free = [limit for limit in limits if limit.kind.effort == 0]
    dear = [limit for limit in limits if limit.kind.effort > 0]
    done: list[Standing] = []
    for each in candidates:
        standing = _held(Standing(each, {}), free, measure)
        if sum(not other.misses for other in done) < enough:
            standing = _held(standing, dear, measure)
        elif not standing.misses:
            standing = replace(standing, misses=NOT_ASKED)
        done.append(standing)
    if all(each.misses for each in done):
        raise SettingsError(
            _nothing_fits(limits, done), remedy="raise --budget, or begin with a smaller model"
        )
    return done


def _held(standing: Standing, limits: Sequence[Limit], measure: Measure) -> Standing:
    """The standing after these limits, up to the first that it misses."""
    for limit in limits:
        if standing.misses:
            break
        value, text = measure(limit.kind, standing.candidate), limit.kind.text
        if isinstance(value, Unknown):
            standing = replace(standing, misses=f"{limit.kind.name}: {value.reason}")
            continue
        misses = f"{limit.kind.name} {text(value)} > {text(limit.most)}" if value > limit.most else ""
        standing = replace(standing, figures={**standing.figures, limit.kind.name: value}, misses=misses)
    return standing


def _nothing_fits(limits: Sequence[Limit], standing: Sequence[Standing]) -> str:
    """What was asked for, and of each figure the smallest there is among those that got so far."""
    parts = []
    for limit in limits:
        name = limit.kind.name
        asked = [each for each in standing if name in each.figures]
        if asked:
            best = min(asked, key=lambda each: each.figures[name])
            parts.append(f"{name} {limit.kind.text(best.figures[name])} ({best.candidate.label})")
    wanted = ", ".join(f"{limit.kind.name}={limit.kind.text(limit.most)}" for limit in limits)
    smallest = ", ".join(parts) or standing[-1].misses
    return f"none of {len(standing)} candidates keeps {wanted}; the smallest possible: {smallest}"


def halve(standing: Sequence[Standing], score: Score) -> list[Standing]:
    """The contest: all train one epoch, the best third three, the best ninth nine, until one is left.

    `score(candidate, epochs)` is its accuracy after so many epochs in all. Returns them best first: who came
    further, then who was better; of equals who came first in `standing`. At least one wanted.
    """
    ordered, alive, epochs = list(standing), len(standing), 1
    while alive > 1:
        racing = [
            replace(each, accuracy={**each.accuracy, epochs: score(each.candidate, epochs)})
            for each in ordered[:alive]
        ]
        racing.sort(key=lambda each: -each.accuracy[epochs])
        ordered[:alive] = racing
        alive, epochs = -(-alive // ETA), epochs * ETA
    return ordered
