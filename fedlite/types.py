"""The words everything else is said in, and the one sign rule: an update is local minus global.

Arrays are NumPy, float32, C-contiguous, so that a device can receive, apply and encode without torch;
torch appears where gradients do (`models/`, `train`, `compress/quantize`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Params = Mapping[str, Array]  # name → weights, in the model's own order
Update = Mapping[str, Array]  # name → local − global
Masks = Mapping[
    str, NDArray[np.bool_]
]  # pruning masks: True where a weight is live; only pruned tensors appear
Metrics = Mapping[str, float]

STATISTIC_SUFFIX = ".act_range"


def is_statistic(name: str) -> bool:
    """Whether a tensor is measured rather than learned: averaged, never pruned, penalised or optimised.

    Today these are the activation ranges of int8-aware training: float32, shape (2,), [min, max].
    """
    return name.endswith(STATISTIC_SUFFIX)


@dataclass(frozen=True)
class Result:
    """What one client contributes to one round, decoded and checked.

    `num_examples` > 0 is its weight in the mean; `metrics` are means over its examples.
    """

    client_id: str
    update: Update
    num_examples: int
    metrics: Metrics = field(default_factory=dict)
    payload_bytes: int = 0
