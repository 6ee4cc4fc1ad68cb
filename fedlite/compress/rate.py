"""How many bytes an update takes is chosen: the finest step whose payload stays within a budget.

`Step.deviations` is the one knob: a longer step leaves more zeros and fewer bits for the rest, and the decoder need
not know it, so that each client may choose its own in every round. Sizes fall almost as a power of the step; a few
secant steps on both logarithms find it, and what does not fit is owed, as always with error feedback.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np

from fedlite.compress.codec import Codec, encode_with_feedback, owing, payload_size
from fedlite.compress.step import Step
from fedlite.errors import SettingsError
from fedlite.types import Array, Masks, Update

FINEST, COARSEST = 0.1, 64.0  # deviations
NEAR = 0.97  # part of the budget that is worth no other try
MOST_TRIES = 8
_AIM = 0.985
_SLOPE, _FLATTEST, _STEEPEST = -1.7, -0.4, -3.0  # of log bytes by log deviations: at first, and believed
_FAR = 8.0  # from one step to the next


@dataclass(frozen=True)
class Choice:
    """A step that was tried, and the bytes of the payload it gave."""

    deviations: float
    payload_bytes: int


def check_adjustable(codec: Codec) -> None:
    """SettingsError for a codec whose sizes cannot be chosen."""
    if not isinstance(codec.serializer, Step) or codec.serializer.fixed:
        raise SettingsError(
            f"a budget needs a codec with a step to choose, which {codec.key!r} has not",
            remedy="take --uplink-codec small or smallest, or one with step in it, as topk:0.1+step:2+ans",
        )


def with_deviations(codec: Codec, deviations: float) -> Codec:
    """The codec with this step; decoders read both. SettingsError as `check_adjustable`."""
    check_adjustable(codec)
    assert isinstance(codec.serializer, Step)
    return replace(codec, serializer=replace(codec.serializer, deviations=deviations))


def choose(codec: Codec, budget_bytes: int, size_of: Callable[[Codec], int]) -> Choice:
    """The finest of the steps tried whose payload fits; if none does, the coarsest there is.

    `size_of` says how many bytes the payload has with a codec; it is asked MOST_TRIES times at most. Sizes alone
    decide, so the choice is the same wherever they are computed. SettingsError as `check_adjustable`.
    """
    check_adjustable(codec)
    assert isinstance(codec.serializer, Step)
    tried: list[Choice] = []
    following: float | None = _on_grid(codec.serializer.deviations) if budget_bytes > 0 else COARSEST
    while following is not None:
        tried.append(Choice(following, size_of(with_deviations(codec, following))))
        following = _next(tried, budget_bytes)
    fits = [each for each in tried if each.payload_bytes <= budget_bytes]
    return min(fits, key=lambda each: each.deviations, default=tried[-1])


def too_small(budget_bytes: int, smallest: int) -> SettingsError:
    """What to say where not even the coarsest step fits; both in bytes, of the same things."""
    return SettingsError(
        f"an uplink budget of {budget_bytes} bytes is too small for this update: the smallest that works is "
        f"{smallest} bytes",
        remedy=f"give --uplink-budget {smallest} or more, or a longer --round-time",
    )


def hopeless(budget_bytes: int, zeros: int) -> SettingsError:
    """What to say before anybody trained: not even an update of zeros fits, which takes that many bytes."""
    return SettingsError(
        f"an uplink budget of {budget_bytes} bytes is too small for any update of this model: one of nothing but "
        f"zeros takes {zeros}",
        remedy=f"give --uplink-budget {2 * zeros} or more, or a longer --round-time; a client whose update does not "
        "fit says what it takes",
    )


def fit(
    codec: Codec,
    update: Update,
    residual: Update | None,
    budget_bytes: int,
    *,
    overhead: int = 0,
    masks: Masks | None = None,
    generator: np.random.Generator | None = None,
) -> tuple[bytes, dict[str, Array], float]:
    """(payload, new residual, deviations): `encode_with_feedback` with the finest step that fits into the budget.

    `overhead` are bytes of the budget that the payload cannot have. Raises as `encode_with_feedback`, and
    SettingsError for a codec without a step to choose, or a budget that not even the coarsest step fits into: it
    names the smallest that works.
    """
    whole, memory = owing(update, residual)

    def size_of(trial: Codec) -> int:
        return payload_size(trial, whole, memory, masks=masks, generator=deepcopy(generator))

    chosen = choose(codec, budget_bytes - overhead, size_of)
    if chosen.payload_bytes + overhead > budget_bytes:
        raise too_small(budget_bytes, chosen.payload_bytes + overhead)
    best = with_deviations(codec, chosen.deviations)
    payload, rest = encode_with_feedback(best, update, residual, masks=masks, generator=deepcopy(generator))
    return payload, rest, chosen.deviations


def _on_grid(deviations: float) -> float:
    """Four digits, so that what is recorded is what was used."""
    return min(max(float(f"{deviations:.4g}"), FINEST), COARSEST)


def _next(tried: list[Choice], budget: int) -> float | None:
    """The step to try next, or None when the best is found."""
    fits = [each for each in tried if each.payload_bytes <= budget]
    fine = min(fits, key=lambda each: each.deviations, default=None)
    over = [each for each in tried if each.payload_bytes > budget]
    finer = [each for each in over if fine is None or each.deviations < fine.deviations]
    large = max(finer, key=lambda each: each.deviations, default=None)
    if fine is not None and (_is_near(fine, large, budget) or fine.deviations == FINEST):
        return None
    if (fine is None and tried[-1].deviations == COARSEST) or len(tried) == MOST_TRIES:
        return None
    if fine is None and len(tried) == MOST_TRIES - 1:
        return COARSEST
    log = _between(large, fine, tried, budget) if fine and large else _beyond(tried, budget)
    following = _on_grid(math.exp(log))
    if all(following != each.deviations for each in tried):
        return following
    return COARSEST if fine is None else None


def _is_near(fine: Choice, large: Choice | None, budget: int) -> bool:
    """Whether it uses the budget, and the next that was too large is no more than twice as fine."""
    known = large is None or fine.deviations <= 2 * large.deviations
    return fine.payload_bytes >= NEAR * budget and known


def _between(large: Choice, fine: Choice, tried: list[Choice], budget: int) -> float:
    """Where the line from one to the other meets what is aimed at; an end that stayed counts half (Illinois).

    The middle where it is flat: most of it is then what no step makes smaller.
    """
    if fine.payload_bytes >= NEAR * budget:
        return math.log(large.deviations * fine.deviations) / 2
    above, below = (math.log(each.payload_bytes / (_AIM * budget)) for each in (large, fine))
    over = [each.payload_bytes > budget for each in tried[-2:]]
    if over == [True, True]:
        below /= 2
    elif over == [False, False]:
        above /= 2
    part = min(max(above / (above - below), 0.05), 0.95)
    return math.log(large.deviations) * (1 - part) + math.log(fine.deviations) * part


def _beyond(tried: list[Choice], budget: int) -> float:
    """Where a line through the last two meets what is aimed at, while all that was tried lies on one side.

    It is not believed further than _FAR times: low rank factors fall ever more steeply. What is flat, because most of
    it is what no step makes smaller, is left in strides that double.
    """
    last, slope = tried[-1], _SLOPE
    if len(tried) > 1:
        run = math.log(last.deviations / tried[-2].deviations)
        slope = math.log(last.payload_bytes / tried[-2].payload_bytes) / run
    slope = min(max(slope, _STEEPEST), _FLATTEST)
    way = math.log(max(_AIM * budget, 1.0) / last.payload_bytes) / slope
    if len(tried) > 2 and last.payload_bytes > budget:
        way = max(way, 2 * math.log(last.deviations / tried[-2].deviations), math.log(1.5))
    log = math.log(last.deviations) + min(max(way, -math.log(_FAR)), math.log(_FAR))
    return min(max(log, math.log(FINEST)), math.log(COARSEST))
