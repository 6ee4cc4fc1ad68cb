"""The kernel's own draws are NumPy's: the order in which `fedlite.train.batches` takes examples."""

import numpy as np
import pytest

from fedlite.seeds import derive
from fedlite.train import batches
from fedlite.virtual.kernel.build import library


def drawn(seed: int, count: int) -> list[int]:
    order = np.empty(count, np.int64)
    library().fedlite_permutation(
        *(kind(value) for kind, value in zip(TYPES, (seed, order.ctypes.data, count), strict=True))
    )
    return order.tolist()


TYPES = (np.ctypeslib.ctypes.c_uint64, np.ctypeslib.ctypes.c_void_p, np.ctypeslib.ctypes.c_int64)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 8675309])
@pytest.mark.parametrize("count", [1, 2, 3, 60, 1000, 70_001])
def test_it_is_numpys_permutation(seed: int, count: int) -> None:
    assert drawn(seed, count) == np.random.default_rng(seed).permutation(count).tolist()


def test_many_streams() -> None:
    for client in range(2000):
        seed = derive(client, "batches", client % 3)
        assert drawn(seed, 37) == next(batches(37, 37, client, client % 3)).tolist()
