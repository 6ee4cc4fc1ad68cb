"""PowerSGD: every matrix as a product of two thin ones, by one step of power iteration. (Vogels et al. 2019, Alg. 1)

A convolution's weight is the matrix (outputs, inputs · height · width); vectors go uncompressed (§3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlite.seeds import generator
from fedlite.types import Array, Params, Update
from scripts.reproduce.published.base import float_bytes, floats


@dataclass(frozen=True)
class PowerSgd:
    """`rank` r: P (n, r) and Q (m, r) travel where r (n + m) < n m. `steps` 2 begins the second from the first one's Q,
    as a warm start does on an update that does not change. `dtype` is that of all that travels.
    """

    rank: int
    steps: int = 2
    dtype: Literal["<f4", "<f2"] = "<f4"

    def encode(self, update: Update, seed: int) -> bytes:
        """Tensor by tensor: P and Q, or the values."""
        parts = []
        for index, (value, rank) in enumerate(self._plan(update)):
            if not rank:
                parts.append(float_bytes(value, self.dtype))
                continue
            left, right = factors(value.reshape(len(value), -1), rank, self.steps, seed + index)
            parts += [float_bytes(left, self.dtype), float_bytes(right, self.dtype)]
        return b"".join(parts)

    def decode(self, payload: bytes, like: Params, seed: int) -> dict[str, Array]:
        """P Qᵀ."""
        found, at, item = [], 0, np.dtype(self.dtype).itemsize
        for value, rank in self._plan(like):
            if not rank:
                found.append(floats(payload, self.dtype, value.size, at))
                at += value.size * item
                continue
            rows, columns = len(value), value.size // len(value)
            left = floats(payload, self.dtype, rows * rank, at).reshape(rows, rank)
            at += left.size * item
            right = floats(payload, self.dtype, columns * rank, at).reshape(columns, rank)
            at += right.size * item
            found.append(left @ right.T)
        return {name: part.reshape(like[name].shape) for name, part in zip(like, found, strict=True)}

    def _plan(self, like: Params) -> Iterator[tuple[Array, int]]:
        """Each tensor with its rank; 0 where it goes as it is."""
        for value in like.values():
            rows, columns = (
                (len(value), value.size // len(value)) if value.ndim > 1 and value.size else (0, 0)
            )
            rank = min(self.rank, rows, columns)
            yield value, rank if rank * (rows + columns) < rows * columns else 0


def factors(matrix: Array, rank: int, steps: int, seed: int) -> tuple[Array, Array]:
    """(P with orthonormal columns, Q) so that P Qᵀ is near the matrix."""
    right = generator(seed, "start").standard_normal((matrix.shape[1], rank), np.float32)
    for _ in range(steps):
        left = np.linalg.qr(matrix @ right)[0].astype(np.float32)
        right = matrix.T @ left
    return left, right
