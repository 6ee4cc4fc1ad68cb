"""A figure that cannot be had here, with the reason: never a number in its place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unknown:
    """Not measurable here; `reason` says why, in a clause that can follow a colon."""

    reason: str
