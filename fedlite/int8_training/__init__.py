"""Training in int8 for devices short of memory. (Lin et al. 2022, "On-Device Training Under 256KB Memory")"""

from fedlite.int8_training.choose import choose_update
from fedlite.int8_training.plan import read_plan
from fedlite.int8_training.sparse import EVERYTHING, SparseUpdate, last_blocks, saved_bytes, update_named
from fedlite.int8_training.train import int8_train

__all__ = [
    "EVERYTHING",
    "SparseUpdate",
    "choose_update",
    "int8_train",
    "last_blocks",
    "read_plan",
    "saved_bytes",
    "update_named",
]
