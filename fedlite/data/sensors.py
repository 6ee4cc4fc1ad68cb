"""MotionSense: six activities of 24 people, from the motion sensors of a phone (Malekzadeh et al. 2019)."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data import npz
from fedlite.data.base import Stored, check_labels
from fedlite.errors import DataError

NUM_CLASSES = 6  # downstairs, upstairs, walking, jogging, sitting, standing
WINDOW = 128  # samples at 50 Hz
FIRST_TEST_SUBJECT = 20

# Mean and standard deviation of gravity x y z (g), rotation rate x y z (rad/s), user acceleration x y z (g)
# over all windows of subjects 1 … 19.
MEAN = (0.042308, 0.755875, -0.118585, 0.005497, 0.010240, 0.010578, 0.001645, 0.039262, 0.039123)
STD = (0.341147, 0.332829, 0.430845, 1.274765, 1.229426, 0.739819, 0.310094, 0.518846, 0.379876)


def motionsense(path: Path, split: str) -> Stored:
    """Windows (n, 9, 128), standardised by MEAN and STD; keys are subjects: 1 … 19 train, 20 … 24 test.

    File: `X` int16 (n, 128, 9), `scale` float32 (9,), `y` and `subject` integers (n,).
    """
    x, scale, subject = (npz.read(path, name) for name in ("X", "scale", "subject"))
    if x.dtype != np.int16 or x.shape[1:] != (WINDOW, len(MEAN)):
        raise DataError(f"{path}: X is {x.dtype} {x.shape}, int16 (n, {WINDOW}, {len(MEAN)}) wanted")
    if scale.shape != (len(MEAN),) or not np.isfinite(scale).all() or not (scale > 0).all():
        raise DataError(f"{path}: scale is not {len(MEAN)} positive numbers")
    if subject.shape != x.shape[:1] or subject.dtype.kind not in "iu":
        raise DataError(f"{path}: subject is {subject.dtype} {subject.shape}, integers {x.shape[:1]} wanted")
    y = check_labels(npz.read(path, "y"), len(x), NUM_CLASSES, str(path))
    chosen = np.flatnonzero((subject >= FIRST_TEST_SUBJECT) == (split == "test"))
    keys = subject[chosen].astype(np.int64)
    return Stored(x[chosen], y[chosen], NUM_CLASSES, "motionsense", keys, partial(_standardise, scale=scale))


def _standardise(x: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.float32]:
    gain = (scale / np.array(STD)).astype(np.float32)
    shift = (np.array(MEAN) / np.array(STD)).astype(np.float32)
    wide: NDArray[np.float32] = np.multiply(x.transpose(0, 2, 1), gain[:, None], dtype=np.float32, order="C")
    wide -= shift[:, None]
    return wide
