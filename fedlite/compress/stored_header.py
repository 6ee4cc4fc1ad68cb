"""The header of a `.fedlite` file: the model's spec and how each tensor is coded; checked where it is read."""

import json
import math
import zlib
from dataclasses import dataclass
from typing import Any

from fedlite.compress.cluster import MOST
from fedlite.compress.positions import ONE_BY_ONE
from fedlite.errors import CodecError, SettingsError

DTYPES = {"e": "<f2", "f": "<f4"}  # of codebooks
STEPS = 1 << 18  # of all masks of a file together: what cannot be computed at once, some 0.05 ms each
ALL = -1  # in place of a way to code the mask: everything is live
_COMMON = (  # what the deflated header may refer to: part of the format
    b'"norm":"batch","batch_stats":"averaged","width":1.0,"stem_stride":2,"groups":features.body.conv.norm.running_mean'
    b'.running_var",layers.lstm.embedding.classifier.dense.lenet_300_100hidden1.weight",[300,784hidden1.bias",[300'
    b'hidden2.weight",[100,300hidden2.bias",[100conv1.weight",conv2.bias",features.2.weight",[50,20,5,5],"e",16,'
    b'features.2.bias",[50],"e",8,features.0.weight",[20,1,5,5],"e",16,features.0.bias",[20],"e",8,hidden.weight",['
    b'hidden.bias",[output.weight",[10,100],"e",16,],["output.bias",[10],"e",8,-1]]}{"model":{"changes":[["size","'
    b'"],"name":"mlp","options":{"input_shape":[1,28,28],"num_classes":10}},"tensors":[["'
)


@dataclass(frozen=True)
class Entry:
    """One tensor in the header."""

    name: str
    shape: tuple[int, ...]
    kind: str  # dtype of the codebook
    clusters: int
    way: int  # ALL, or 2 · width + whether the matrix is transposed

    @property
    def size(self) -> int:
        """Weights, pruned ones included."""
        return math.prod(self.shape)

    @property
    def room(self) -> int:
        """As `size`, a dimension of 0 counting as 1: no dimension, and no product of some, is larger."""
        return math.prod(max(each, 1) for each in self.shape)

    @property
    def in_blocks(self) -> bool:
        """Whether flags of its rows or columns are too many to tell one by one."""
        return self.way != ALL and max(self.matrix) > ONE_BY_ONE

    @property
    def steps(self) -> int:
        """Parts of its mask that are coded one after the other."""
        if self.way == ALL:
            return 1
        rows, columns = self.matrix
        return 1 + columns + sum(each for each in (rows, columns) if each <= ONE_BY_ONE)

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns) as coded."""
        rows = self.shape[0] if self.shape else 1
        across = (rows, self.size // rows if rows else 0)
        return (across[1], across[0]) if self.way & 1 else across


def pack(spec: str, entries: list[Entry]) -> bytes:
    """The header's bytes, deflated. SettingsError for masks of more than STEPS."""
    if (steps := sum(each.steps for each in entries)) > STEPS:
        raise SettingsError(f"the masks take {steps} steps to code; at most {STEPS} are read")
    rows = [[each.name, list(each.shape), each.kind, each.clusters, each.way] for each in entries]
    header = {"model": json.loads(spec), "tensors": rows}
    return deflated(json.dumps(header, separators=(",", ":"), sort_keys=True).encode())


def is_sane(entry: Entry) -> bool:
    """Whether a mask is coded in so few columns that its time is bounded by its size; none is coded for no weights."""
    rows, columns = entry.matrix
    return 1 <= entry.way >> 1 <= entry.size and columns <= 64 * rows + 1024


def deflated(header: bytes) -> bytes:
    """Raw deflate, with the format's dictionary."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, _COMMON)
    return deflate.compress(header) + deflate.flush()


def unpack(packed: bytes, limit: int) -> tuple[str, list[Entry]]:
    """(spec, entries), whose sizes together are within the limit, and the steps of their masks within STEPS."""
    try:
        inflate = zlib.decompressobj(-15, _COMMON)
        raw = json.loads(inflate.decompress(packed, 1 << 22))
        if not inflate.eof or inflate.unused_data:
            raise CodecError("the file's header is not one deflated piece")
        entries = [_entry(*each) for each in raw["tensors"]]
        spec = json.dumps(raw["model"], sort_keys=True)
    except (zlib.error, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CodecError(f"the file's header is damaged: {str(error)[:80]}") from None
    if len({each.name for each in entries}) != len(entries):
        raise CodecError("two tensors of the file have one name")
    if (count := sum(each.room for each in entries)) > limit:
        raise CodecError(f"the file claims {count} weights; at most {limit} are read")
    if (steps := sum(each.steps for each in entries)) > STEPS:
        raise CodecError(f"the file's masks are coded in {steps} steps; at most {STEPS} are read")
    return spec, entries


def _entry(name: Any, shape: Any, kind: Any, clusters: Any, way: Any) -> Entry:
    numbers = [*shape, clusters, way + 1]
    whole = all(type(each) is int and 0 <= each < 1 << 32 for each in numbers)
    if type(name) is not str or not whole or kind not in DTYPES or clusters > MOST or len(shape) > 8:
        raise CodecError(f"the file's header has no tensor {str([name, shape, kind, clusters, way])[:80]}")
    entry = Entry(name, tuple(shape), kind, clusters, way)
    if way != ALL and not is_sane(entry):
        raise CodecError(f"the mask of {name[:80]!r} is coded in a way that none is written in: {way}")
    return entry
