"""Shakespeare by speaking role, for next-character prediction in the manner of LEAF."""

import gzip
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.base import Stored
from fedlite.errors import DataError

VOCABULARY = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # 65 symbols; class = place
LENGTH = 80
STRIDE = 80
MAX_BYTES = 2**26


def roles(text: str) -> dict[str, list[str]]:
    """Role → its speeches in order. A speech is a paragraph whose first line is `ROLE:` alone."""
    found: dict[str, list[str]] = {}
    for paragraph in text.split("\n\n"):
        role, colon, speech = paragraph.strip("\n").partition(":\n")
        if colon and "\n" not in role:
            found.setdefault(role, []).append(speech)
    return found


def shakespeare(path: Path, split: str, *, stride: int = STRIDE) -> Stored:
    """Windows of 80 characters, int64 (n, 80), and the character after each; keys are the role's place.

    Roles are numbered 0 … 298 in alphabetical order. A role's speeches are joined by line ends; the first
    80 % of its characters (rounded down) are train, the rest test, and windows begin every `stride`
    characters from the start of their part, so no window sees both. A part of 80 characters or fewer has
    none. LEAF (Caldas et al. 2019, §2) takes every window, stride 1; 80 keeps the set at 1.1 MB.
    """
    by_role = roles(_read(path))
    if not by_role:
        raise DataError(f"{path} holds no speech: a paragraph that begins with 'ROLE:' on its own line")
    texts = ["\n".join(by_role[role]) for role in sorted(by_role)]
    ends = list(accumulate(map(len, texts)))
    starts, keys = _windows([len(text) for text in texts], ends, split, stride)
    if not len(starts):
        raise DataError(f"{path}: no role has more than {LENGTH} characters in its {split} part")
    codes = _encode("".join(texts), path)
    x = codes[starts[:, None] + np.arange(LENGTH)]
    y = codes[starts + LENGTH].astype(np.int64)
    return Stored(x, y, len(VOCABULARY), "shakespeare", keys, _indices)


def _windows(
    lengths: list[int], ends: list[int], split: str, stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first character, role) of each window of the split."""
    starts, keys = [], []
    for role, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        middle = end - length + length * 4 // 5
        first, last = (end - length, middle) if split == "train" else (middle, end)
        begins = np.arange(first, last - LENGTH, stride, dtype=np.int64)
        starts.append(begins)
        keys.append(np.full(len(begins), role, dtype=np.int64))
    return np.concatenate(starts), np.concatenate(keys)


def _encode(text: str, path: Path) -> NDArray[np.uint8]:
    table = np.full(256, 255, dtype=np.uint8)
    table[np.frombuffer(VOCABULARY.encode("ascii"), dtype=np.uint8)] = np.arange(len(VOCABULARY))
    codes = table[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]
    if codes.max() == 255:
        odd = text[int(np.argmax(codes))]
        raise DataError(f"{path} holds {odd!r}, which is not one of the {len(VOCABULARY)} symbols")
    return codes


def _read(path: Path) -> str:
    try:
        with gzip.open(path) as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("ascii")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not gzipped ASCII text: {error}") from error
    if len(raw) > MAX_BYTES:
        raise DataError(f"{path} unpacks to more than {MAX_BYTES} bytes")
    return text


def _indices(x: NDArray[Any]) -> NDArray[np.int64]:
    return x.astype(np.int64)
