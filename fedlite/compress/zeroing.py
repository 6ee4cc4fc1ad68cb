"""What filters that only set weights to zero have in common: nothing of them is in the payload."""

from collections.abc import Mapping

from fedlite.compress.layout import Layout
from fedlite.errors import SettingsError
from fedlite.types import Array


class Zeroing:
    """The part of a Filter that is the same for all that leave zeros and no other trace."""

    key = ""
    note_size = 0

    def inner(self, layout: Layout) -> Layout:
        """The same."""
        return layout

    def memory(self, layout: Layout) -> Mapping[str, tuple[int, ...]]:
        """Nothing."""
        return {}

    def undo(self, weights: Array, layout: Layout, note: bytes) -> Array:
        """The same."""
        return weights


def check_fraction(fraction: float) -> None:
    """SettingsError unless it is in (0, 1]."""
    if not 0 < fraction <= 1:
        raise SettingsError(f"fraction {fraction} is not in (0, 1]")
