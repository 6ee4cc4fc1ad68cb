"""What a teacher says of clients' samples: its logits, beside each sample, worked out once where samples are shared."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.virtual.samples import Picked, Samples

Logits = NDArray[np.float32]


def taught(
    share: Callable[[int], Samples | Picked], ask: Callable[[NDArray[Any]], Logits]
) -> Callable[[int], Picked]:
    """`share`, with the logits `ask` gives for examples (n, …) → (n, classes).

    Clients who pick from one array share its logits too: they are asked for when the first of them comes, for the
    whole array, and kept. Samples of a client's own are asked about whenever they are drawn.
    """
    known: dict[
        int, tuple[NDArray[Any], Logits]
    ] = {}  # by address; the array is kept, so the address stays its own

    def drawn(client: int) -> Picked:
        samples = share(client)
        if not isinstance(samples, Picked):
            x, y = samples
            return Picked(x, y, np.arange(len(y)), ask(x) if len(y) else None)
        x = samples.x
        if id(x) not in known:
            known[id(x)] = (x, ask(x))
        return samples._replace(teacher=known[id(x)][1])

    return drawn
