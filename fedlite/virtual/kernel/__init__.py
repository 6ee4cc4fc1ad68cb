"""The compiled cohort kernel: dense and convolutional models, one client per thread, the numbers of torch."""

from fedlite.virtual.kernel.build import available
from fedlite.virtual.kernel.engine import supports, train_cohort, train_rows
from fedlite.virtual.kernel.evaluation import evaluate, supports_evaluation

__all__ = ["available", "evaluate", "supports", "supports_evaluation", "train_cohort", "train_rows"]
