"""Our front, and how far above or below it a published point lies."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

RATIOS = (4.0, 300.0)  # where the claim holds


class Point(NamedTuple):
    """One update coded one way. Speeds are MB of float32 a second."""

    method: str
    setting: str
    kinder: bool
    bytes: int
    ratio: float
    cosine: float
    error: float  # ‖decoded − update‖ / ‖update‖
    encode_mb_s: float
    decode_mb_s: float


class Margin(NamedTuple):
    """Our cosine at a published point's bytes less the point's; None where no two points of ours bracket it.

    `real` is that of our best point that has no more bytes, without interpolation; None if there is none.
    """

    point: Point
    margin: float | None
    real: float | None

    @property
    def reached(self) -> bool:
        """Ours is better or equal."""
        return (self.margin is not None and self.margin >= 0) or (self.real is not None and self.real >= 0)


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no other beats in bytes and cosine, by rising bytes: a monotone envelope of real points."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.bytes, -each.cosine)):
        if not best or point.cosine > best[-1].cosine:
            best.append(point)
    return best


def cosine_at(best: Sequence[Point], size: int) -> float | None:
    """The front's cosine at these bytes, linear in log(bytes) between its points; None outside them."""
    for low, high in itertools.pairwise(best):
        if low.bytes <= size <= high.bytes:
            share = math.log(size / low.bytes) / math.log(high.bytes / low.bytes)
            return low.cosine + share * (high.cosine - low.cosine)
    return None


def margins(ours: Iterable[Point], published: Iterable[Point]) -> list[Margin]:
    """Of every published point whose ratio the claim is about."""
    best, low, high = front(ours), *RATIOS
    found = []
    for point in published:
        if low <= round(point.ratio, 1) <= high:  # 8 bits and a scale are 4 times fewer than 32 bits
            at = cosine_at(best, point.bytes)
            less = [each.cosine for each in best if each.bytes <= point.bytes]
            found.append(
                Margin(
                    point,
                    None if at is None else at - point.cosine,
                    max(less) - point.cosine if less else None,
                )
            )
    return found
