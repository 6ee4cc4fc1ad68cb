"""Training in int8 for devices short of memory. (Lin et al. 2022, "On-Device Training Under 256KB Memory")"""

from fedlite.int8_training.sparse import EVERYTHING, SparseUpdate
from fedlite.int8_training.train import int8_train

__all__ = ["EVERYTHING", "SparseUpdate", "int8_train"]
