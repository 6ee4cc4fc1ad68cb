"""The compiled cohort kernel: dense and convolutional models, one client per thread, the numbers of torch."""

from fedlite.virtual.kernel.build import available
from fedlite.virtual.kernel.engine import supports, train_cohort, train_rows

__all__ = ["available", "supports", "train_cohort", "train_rows"]
