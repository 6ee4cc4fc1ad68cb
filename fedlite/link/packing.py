"""Flower messages ↔ bytes: a JSON header and blobs.

The header holds metadata, records and the place of every byte string; the blobs are those byte strings by
reference, so that a model sent to n nodes exists once. `unpack` accepts exactly what `pack` writes: the
header must equal its own re-encoding.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlite.errors import FrameError
from fedlite.flower import (
    METADATA_FIELDS,
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
    make_message,
)

MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_BLOBS = 65_536

_KINDS: dict[type, str] = {ArrayRecord: "arrays", MetricRecord: "metrics", ConfigRecord: "config"}
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<>|][biufcSU]\d{1,9})', 'fortran_order': (?:True|False), "
    rb"'shape': \(([\d, ]{0,1500})\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True)
class Packed:
    """A message as bytes: `header` ≤ 4 MiB of JSON; `blobs` are the caller's own objects, not copies."""

    header: bytes
    blobs: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        """Header and blobs together."""
        return len(self.header) + sum(map(len, self.blobs))


def pack(message: Message) -> Packed:
    """A message as a header and blobs. Raises FrameError for what no peer would accept."""
    blobs: list[bytes] = []
    metadata = message.metadata
    tree: dict[str, Any] = {"metadata": [getattr(metadata, name) for name in METADATA_FIELDS]}
    if message.has_error():
        tree["error"] = [message.error.code, message.error.reason]
    elif message.has_content():
        tree["records"] = [
            [name, _KINDS[type(record)], [_pack_item(key, value, blobs) for key, value in record.items()]]
            for name, record in message.content.items()
        ]
    header = _dump(tree)
    if len(header) > MAX_HEADER_BYTES or len(blobs) > MAX_BLOBS:
        raise FrameError(
            f"a message has a header of {len(header)} bytes and {len(blobs)} byte strings; "
            f"at most {MAX_HEADER_BYTES} and {MAX_BLOBS} travel",
            remedy="send large values as one array",
        )
    return Packed(header, tuple(blobs))


def unpack(header: bytes, blobs: Sequence[bytes]) -> Message:
    """The message of a header and its blobs. Raises FrameError for anything `pack` does not write."""
    tree = _load(header)
    if not isinstance(tree, dict):
        raise FrameError(f"message header is a {type(tree).__name__}, an object wanted")
    extra = set(tree) - {"metadata", "records", "error"}
    if extra or "metadata" not in tree or {"records", "error"} <= set(tree):
        raise FrameError(f"message header has the keys {sorted(tree)[:5]}")
    rest = iter(blobs)
    try:
        metadata = _unpack_metadata(tree["metadata"])
        content = _unpack_records(tree["records"], rest) if "records" in tree else None
        error = _unpack_error(tree["error"]) if "error" in tree else None
        message = make_message(metadata, content=content, error=error)
    except (TypeError, ValueError, KeyError) as problem:  # Flower's own checks of types and message types
        raise FrameError(f"message header does not describe a message: {str(problem)[:120]}") from problem
    if next(rest, None) is not None:
        raise FrameError(f"message has {len(blobs)} blobs, its header names fewer")
    return message


def _dump(tree: Any) -> bytes:
    return json.dumps(tree, separators=(",", ":")).encode()


def _load(header: bytes) -> Any:
    if len(header) > MAX_HEADER_BYTES:
        raise FrameError(f"message header of {len(header)} bytes, at most {MAX_HEADER_BYTES}")
    try:
        tree = json.loads(header)
        same = _dump(tree) == header
    except (ValueError, RecursionError) as problem:
        raise FrameError("message header is not JSON") from problem
    if not same:
        raise FrameError("message header is not in the form that its encoder writes")
    return tree


def _pack_item(key: str, value: Any, blobs: list[bytes]) -> list[Any]:
    if isinstance(value, Array):
        blobs.append(value.data)
        return [key, value.dtype, list(value.shape), value.stype]
    if isinstance(value, bytes):
        blobs.append(value)
        return [key, "bytes"]
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        blobs.extend(value)
        return [key, "list", len(value)]
    _check_integers(value)
    return [key, "value", value]


def _unpack_metadata(values: Any) -> Metadata:
    if not isinstance(values, list) or len(values) != len(METADATA_FIELDS):
        raise FrameError("message metadata has the wrong number of fields")
    named = dict(zip(METADATA_FIELDS, values, strict=True))
    for name, value in named.items():
        if name.endswith("task_id") and value is None:
            continue
        if name in ("message_id", "reply_to_message_id", "group_id", "message_type"):
            _text(value)
        elif name in ("created_at", "ttl"):
            if type(value) not in (int, float) or not math.isfinite(value):
                raise FrameError(f"message {name} is {value!r}, a number of seconds wanted")
        elif type(value) is not int or not 0 <= value < 2**64:
            raise FrameError(f"message {name} is {str(value)[:40]}, 0 to 2^64 - 1 wanted")
    return Metadata(**named)


def _unpack_error(value: Any) -> Error:
    code, reason = value
    if type(code) is not int or not 0 <= code < 2**31:
        raise FrameError("message error code is not a small integer")
    return Error(code, None if reason is None else _text(reason))


def _unpack_records(rows: Any, blobs: Iterator[bytes]) -> RecordDict:
    records = RecordDict()
    for name, kind, items in rows:
        if _text(name) in records:
            raise FrameError(f"record {name[:40]!r} comes twice")
        records[name] = _unpack_record(kind, items, blobs)
    return records


def _unpack_record(
    kind: str, items: Any, blobs: Iterator[bytes]
) -> ArrayRecord | MetricRecord | ConfigRecord:
    record: Any = {"arrays": ArrayRecord, "metrics": MetricRecord, "config": ConfigRecord}[kind]()
    for key, *rest in items:
        if _text(key) in record:
            raise FrameError(f"key {key[:40]!r} comes twice")
        record[key] = (
            _unpack_array(*rest, blobs=blobs) if kind == "arrays" else _unpack_value(*rest, blobs=blobs)
        )
    return record  # type: ignore[no-any-return]


def _unpack_array(dtype: Any, shape: Any, stype: Any, *, blobs: Iterator[bytes]) -> Array:
    if not all(type(size) is int and 0 <= size < 2**48 for size in shape) or len(shape) > 64:
        raise FrameError("array shape is not a list of sizes")
    array = Array(_text(dtype), tuple(shape), _text(stype), _take(blobs))
    if stype == "numpy.ndarray":
        _check_npy(array)
    return array


def _unpack_value(form: Any, value: Any = None, *, blobs: Iterator[bytes]) -> Any:
    if form == "bytes" and value is None:
        return _take(blobs)
    if form == "list" and type(value) is int and 0 < value <= MAX_BLOBS:
        return [_take(blobs) for _ in range(value)]
    if form != "value":
        raise FrameError("a value has an unknown form")
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str):
            _text(each)
    _check_integers(value)
    return value


def _take(blobs: Iterator[bytes]) -> bytes:
    blob = next(blobs, None)
    if blob is None:
        raise FrameError("message has fewer blobs than its header names")
    return blob


def _text(value: Any) -> str:
    """A string that can be written out again: JSON lets half a surrogate pair through."""
    if not isinstance(value, str):
        raise FrameError(f"message header has a {type(value).__name__} where text is wanted")
    if not value.isascii():
        value.encode()  # UnicodeEncodeError is a ValueError
    return value


def _check_integers(value: Any) -> None:
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, int) and not -(2**63) <= each < 2**64:
            raise FrameError("an integer in a record needs more than 64 bits")


def _check_npy(array: Array) -> None:
    """Refuse .npy data whose own header claims another dtype, shape or size: loaders allocate on its word."""
    found = _NPY.match(array.data)
    if not found or int.from_bytes(found[1], "little") != found.end() - 10:
        raise FrameError("array data are not in NumPy's format 1.0")
    dtype = np.dtype(found[2].decode())
    shape = tuple(int(size) for size in found[3].replace(b" ", b"").split(b",") if size)
    want = found.end() + dtype.itemsize * math.prod(shape)
    if str(dtype) != array.dtype or shape != array.shape or len(array.data) != want:
        raise FrameError(
            f"array is declared {array.dtype[:20]} {array.shape[:8]}, its data are {dtype} {shape[:8]} "
            f"in {len(array.data)} bytes, {want} expected"
        )
