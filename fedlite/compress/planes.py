"""What a serialized body is made of: planes, whose sizes the layout alone tells, for compressors that look inside."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedlite.compress.layout import Tensor


@dataclass(frozen=True, eq=False)
class Plane:
    """`size` bytes. With `tensors` they are levels: one int8 (or int16) for each live weight of these.

    Levels are symmetric: −127 … 127, or −32767 … 32767.
    """

    size: int
    tensors: tuple[Tensor, ...] | None = None
    wide: bool = False  # int16


Planes = Sequence[Plane]


def size_of(planes: Planes) -> int:
    """Bytes of all of them."""
    return sum(plane.size for plane in planes)


def levels_of(tensors: tuple[Tensor, ...], *, wide: bool = False) -> Plane:
    """The plane of these tensors' levels."""
    return Plane(sum(tensor.live for tensor in tensors) * (1 + wide), tensors, wide)
