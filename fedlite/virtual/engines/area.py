"""Memory that a process and those forked from it share: what training starts from, and room for results.

It is anonymous: it has no name, and goes with the last process that holds it, however that one ends.
"""

import mmap

import numpy as np

from fedlite.tensors import apply_masks
from fedlite.types import Array, Masks
from fedlite.virtual.engines.base import Work
from fedlite.virtual.rows import from_row, spans, to_row

_FLOAT = 4

Outline = tuple[
    tuple[str, tuple[int, ...], bool], ...
]  # each tensor's name and shape, and whether it has a mask


class Area:
    """A model's weights and masks, and `slots` rows, for models of up to `floats` floats."""

    def __init__(self, floats: int, slots: int) -> None:
        self.floats = floats
        memory = mmap.mmap(-1, max(1, floats * (_FLOAT * (1 + slots) + 1)))
        rows = np.frombuffer(memory, np.float32, floats * (1 + slots)).reshape(1 + slots, floats)
        self._start, self._slots = rows[0], rows[1:]
        self._live = np.frombuffer(memory, np.bool_, floats, offset=rows.nbytes)

    def write(self, work: Work) -> Outline:
        """Put the work's weights, pruned, and its masks here; what `read` needs to find them."""
        start = to_row(apply_masks(work.params, work.masks))
        self._start[: len(start)] = start
        for name, span in spans(work.params):
            if name in work.masks:
                self._live[span] = work.masks[name].ravel()
        return tuple((name, value.shape, name in work.masks) for name, value in work.params.items())

    def read(self, outline: Outline) -> tuple[dict[str, Array], Masks]:
        """Weights and masks: views of this memory, read-only."""
        like = {name: np.broadcast_to(np.float32(0), shape) for name, shape, _ in outline}
        start, live = self._start.view(), self._live.view()
        start.flags.writeable = live.flags.writeable = False
        masked = [name for name, _, has_mask in outline if has_mask]
        masks = {name: live[span].reshape(like[name].shape) for name, span in spans(like) if name in masked}
        return from_row(start, like), masks

    def slot(self, number: int, floats: int) -> Array:
        """The first `floats` floats of a slot."""
        row: Array = self._slots[number, :floats]
        return row
