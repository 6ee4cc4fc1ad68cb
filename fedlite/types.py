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

RANGE_SUFFIX = ".act_range"
STATISTIC_SUFFIXES = (RANGE_SUFFIX, ".running_mean", ".running_var")


def is_statistic(name: str) -> bool:
    """Whether a tensor is measured rather than learned: averaged, never pruned, penalised or optimised.

    These are the activation ranges of int8-aware training, and BatchNorm's running mean and variance: float32,
    shape (channels,).
    """
    return name.endswith(STATISTIC_SUFFIXES)


def is_range(name: str) -> bool:
    """Whether a tensor is an activation range, which a model at 32 bits does not have: (2,), [min, max]."""
    return name.endswith(RANGE_SUFFIX)


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
