"""The three slots of a codec: what a filter, a serializer and a compressor must do."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from fedlite.compress.layout import Layout
from fedlite.compress.planes import Planes
from fedlite.types import Array

Chance = np.random.Generator | None
Buffer = bytes | memoryview
Memory = Mapping[
    str, Array
]  # what a filter keeps between rounds: names begin with "~", which no tensor's does


class Filtered(NamedTuple):
    """What a filter passes on: weights of its inner layout, `note` for the decoder, `memory` for next time."""

    weights: Array
    note: bytes = b""
    memory: Memory = MappingProxyType({})


class Filter(Protocol):
    """Chooses what is worth sending: the live weights, flat, or fewer numbers that stand for them."""

    @property
    def key(self) -> str:
        """What a decoder must know of it; empty where it leaves zeros and no other trace."""

    @property
    def note_size(self) -> int:
        """Bytes of the note, always."""

    def inner(self, layout: Layout) -> Layout:
        """The layout of what is passed on."""

    def memory(self, layout: Layout) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of what it keeps."""

    def apply(self, weights: Array, layout: Layout, chance: Chance, memory: Memory) -> Filtered:
        """All live weights, flat, in. `memory` is empty the first time."""

    def undo(self, weights: Array, layout: Layout, note: bytes) -> Array:
        """All live weights, flat, out; CodecError for a note that `apply` never writes."""


class Serializer(Protocol):
    """Values ↔ a body whose planes the layout alone tells."""

    @property
    def key(self) -> str: ...  # noqa: D102

    def planes(self, layout: Layout) -> Planes: ...  # noqa: D102

    def dump(self, weights: Array, statistics: Array, layout: Layout, chance: Chance) -> bytes: ...  # noqa: D102

    def load(self, body: Buffer, layout: Layout) -> tuple[Array, Array]: ...  # noqa: D102


class Compressor(Protocol):
    """Bytes ↔ fewer bytes, without loss. `planes` say what the bytes before it are."""

    @property
    def key(self) -> str: ...  # noqa: D102

    @property
    def looks_inside(self) -> bool: ...  # noqa: D102  (it needs a serializer's own planes: it comes first)

    def bound(self, planes: Planes) -> int: ...  # noqa: D102

    def compress(self, data: bytes, planes: Planes) -> bytes: ...  # noqa: D102

    def decompress(self, data: bytes, planes: Planes) -> Buffer: ...  # noqa: D102
