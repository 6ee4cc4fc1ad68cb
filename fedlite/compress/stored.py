"""The `.fedlite` file: a model as Deep Compression leaves it, with all that is needed to have it back.

    magic "FLC1" or "FLC2" | uint16 length of the header | header | codebooks | entropy coded masks and indices | CRC-32

The header is JSON, deflated: the model's spec and, per tensor, name, shape, how its values are written and how its
mask is coded; docs/compress.md has the bytes. The CRC finds what goes wrong by accident: no check without a key can
tell what somebody altered on purpose, so a file that travels is sealed or named by its hash in a signed manifest.
Still an altered file with a right CRC raises CodecError or gives wrong weights: it cannot run code, and takes no more
memory than `limit` weights need, nor more time than they and stored_header.STEPS do.
"""

import math
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.compress import entropy, positions, stored_header
from fedlite.compress.cluster import MOST, Shared
from fedlite.compress.stored_header import ALL, DTYPES, Entry, is_sane
from fedlite.errors import CodecError, SettingsError
from fedlite.types import Array

Bits = NDArray[np.bool_]

MAGIC = b"FLC1"
IN_BLOCKS = b"FLC2"  # a file of a mask with so many rows or columns that their flags are coded in blocks
LIMIT = 1 << 26  # weights a file may hold unless its reader allows more: 256 MiB of float32
_HEAD = struct.Struct("<4sH")
_CHECK = struct.Struct("<I")
_NO_UNITS: Bits = np.zeros(0, np.bool_)


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds: the ModelSpec as JSON, and each tensor by its codebook."""

    spec: str
    tensors: Mapping[str, Shared]

    def params(self) -> dict[str, Array]:
        """The model's weights, float32; pruned ones are exactly 0."""
        return {name: each.dense() for name, each in self.tensors.items()}


def save(path: Path, stored: Stored) -> int:
    """Write the file, all of it or nothing; returns its bytes. Raises as `dumps`, SettingsError for the disk."""
    payload = dumps(stored)
    draft = path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        with draft.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    return len(payload)


def load(path: Path, limit: int = LIMIT) -> tuple[str, dict[str, Array]]:
    """(ModelSpec as JSON, weights) of a file. Raises as `loads`, SettingsError for a file that cannot be read."""
    stored = read(path, limit)
    return stored.spec, stored.params()


def read(path: Path, limit: int = LIMIT) -> Stored:
    """As `load`, with masks, codebooks and indices apart."""
    try:
        with path.open("rb") as file:
            payload = file.read(8 * limit)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    try:
        return loads(payload, limit)
    except CodecError as error:
        raise CodecError(f"{path}: {error.args[0]}", remedy="copy or make the file again") from None


def dumps(stored: Stored) -> bytes:
    """The bytes of a file. SettingsError for a tensor that the format cannot hold."""
    entries = _plans(stored)
    packed = stored_header.pack(stored.spec, entries)
    if len(packed) > 0xFFFF:
        raise SettingsError(f"the header takes {len(packed)} bytes; at most {0xFFFF} fit")
    shared = list(stored.tensors.values())
    books = b"".join(
        each.codebook.astype(DTYPES[entry.kind]).tobytes()
        for entry, each in zip(entries, shared, strict=True)
    )
    writer = entropy.Writer(entropy.lanes_for(sum(each.size for each in entries)))
    units = _NO_UNITS
    for entry, each in zip(entries, shared, strict=True):
        _code(writer, entry, units, each.mask, each.indices)
        units = _units_after(each.mask, units)
    magic = IN_BLOCKS if any(each.in_blocks for each in entries) else MAGIC
    payload = _HEAD.pack(magic, len(packed)) + packed + books + writer.finish()
    return payload + _CHECK.pack(zlib.crc32(payload))


def loads(payload: bytes, limit: int = LIMIT) -> Stored:
    """What `dumps` wrote, of at most `limit` weights; CodecError for anything else."""
    if len(payload) < _HEAD.size + _CHECK.size or payload[:4] not in (MAGIC, IN_BLOCKS):
        raise CodecError(
            f"{len(payload)} bytes beginning {payload[:4].hex()} are no .fedlite file, {MAGIC.hex()}"
            f" or {IN_BLOCKS.hex()}"
        )
    written, actual = _CHECK.unpack(payload[-_CHECK.size :])[0], zlib.crc32(payload[: -_CHECK.size])
    if written != actual:
        raise CodecError(f"the file is damaged: check value {written:08x}, computed {actual:08x}")
    body = payload[: -_CHECK.size]
    end = _HEAD.size + _HEAD.unpack_from(payload)[1]
    spec, entries = stored_header.unpack(body[_HEAD.size : end], limit)
    if payload[:4] == MAGIC and (old := [each.name for each in entries if each.in_blocks]):
        raise CodecError(f"the mask of {old[0][:80]!r} has more rows or columns than FLC1 has; FLC2 has them")
    books = []
    for entry in entries:
        book, end = _read_book(body, end, entry)
        books.append(book)
    reader = entropy.Reader(body[end:], entropy.lanes_for(sum(each.size for each in entries)))
    tensors, units = {}, _NO_UNITS
    for entry, book in zip(entries, books, strict=True):
        mask, indices = _code(reader, entry, units)
        units = _units_after(mask, units)
        tensors[entry.name] = Shared(mask, book, indices)
    reader.close()
    return Stored(spec, tensors)


def costs(stored: Stored) -> dict[str, tuple[float, float, int]]:
    """Per tensor, the bytes of its mask, of its indices and of its codebook; the rest of a file is fixed."""
    found, units = {}, _NO_UNITS
    for entry, each in zip(_plans(stored), stored.tensors.values(), strict=True):
        mask, both = entropy.Writer(1), entropy.Writer(1)
        _code_mask(mask, entry, units, each.mask)
        _code(both, entry, units, each.mask, each.indices)
        units = _units_after(each.mask, units)
        book = np.dtype(DTYPES[entry.kind]).itemsize * entry.clusters
        found[entry.name] = (mask.cost_bits / 8, (both.cost_bits - mask.cost_bits) / 8, book)
    return found


def _code(
    coder: entropy.Coder,
    entry: Entry,
    units: Bits,
    mask: Bits | None = None,
    indices: NDArray[Any] | None = None,
) -> tuple[Bits, NDArray[np.uint8]]:
    """One tensor's mask and indices, in the direction of the coder."""
    mask = _code_mask(coder, entry, units, mask)
    count = int(np.count_nonzero(mask))
    if count and not entry.clusters:
        raise CodecError(f"tensor {entry.name[:80]!r} has {count} live weights and no centroid")
    found = entropy.code(coder, count, entry.clusters, indices) if count else np.zeros(0, np.int64)
    return mask, found.astype(np.uint8)


def _code_mask(coder: entropy.Coder, entry: Entry, units: Bits, mask: Bits | None) -> Bits:
    if entry.way == ALL:
        return np.ones(entry.shape, np.bool_)
    rows, columns = entry.matrix
    hints = (_hint(units, rows), _hint(units, columns))
    flip = entry.way & 1
    matrix = None if mask is None else mask.reshape((columns, rows) if flip else (rows, columns))
    if matrix is not None and flip:
        matrix = matrix.T
    found = positions.code_mask(coder, rows, columns, entry.way >> 1, matrix, hints)
    return np.ascontiguousarray(found.T if flip else found).reshape(entry.shape)


def _units_after(mask: Bits, units: Bits) -> Bits:
    """The live outputs of the last layer so far: its bias, and the inputs of the next layer, resemble them."""
    return np.asarray(mask.reshape(len(mask), -1).any(1)) if mask.ndim > 1 and mask.size else units


def _hint(units: Bits, count: int) -> Bits | None:
    """Each unit's flag as often as it has places among `count`; None where they do not divide."""
    return np.repeat(units, count // len(units)) if len(units) and count and count % len(units) == 0 else None


def _plans(stored: Stored) -> list[Entry]:
    """How each tensor is coded."""
    entries, units = [], _NO_UNITS
    for name, each in stored.tensors.items():
        entries.append(_plan(name, each, units))
        units = _units_after(each.mask, units)
    return entries


def _plan(name: str, shared: Shared, units: Bits) -> Entry:
    """The entry that codes a tensor smallest, among the few ways that are tried."""
    exact = np.array_equal(shared.codebook.astype(np.float16).astype(np.float32), shared.codebook)
    if len(shared.codebook) > MOST or (len(shared.indices) and shared.indices.max() >= len(shared.codebook)):
        raise SettingsError(f"{name!r} has {len(shared.codebook)} centroids; at most {MOST} fit its indices")
    entry = Entry(name, shared.mask.shape, "e" if exact else "f", len(shared.codebook), ALL)
    if shared.mask.all():
        return entry
    best: tuple[float, Entry] | None = None
    for way in _ways(shared.mask):
        each = Entry(name, entry.shape, entry.kind, entry.clusters, way)
        if not is_sane(each):
            continue
        writer = entropy.Writer(1)
        _code_mask(writer, each, units, shared.mask)
        if best is None or writer.cost_bits < best[0]:
            best = (writer.cost_bits, each)
    assert best is not None  # one of the two orientations is always sane
    return best[1]


def _ways(mask: Bits) -> list[int]:
    """Both orientations; and, for the plain one, distances at which a matrix of images has its second neighbour."""
    rows = mask.shape[0]
    columns = mask.size // max(rows, 1)
    root = math.isqrt(columns)
    widths = {columns} | ({mask.shape[-1]} if mask.ndim > 2 else set())
    widths |= {root} if root * root == columns else {4} if columns % 16 == 0 else set()
    return [2 * each for each in sorted(widths)] + [2 * rows + 1]


def _read_book(body: bytes, start: int, entry: Entry) -> tuple[Array, int]:
    dtype = np.dtype(DTYPES[entry.kind])
    end = start + dtype.itemsize * entry.clusters
    if end > len(body):
        raise CodecError(f"the file ends before the codebook of {entry.name[:80]!r}")
    book = np.frombuffer(body[start:end], dtype).astype(np.float32)
    if not np.isfinite(book).all():
        raise CodecError(f"the codebook of {entry.name[:80]!r} holds NaN or infinity")
    return book, end
