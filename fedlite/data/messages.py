"""SMS Spam: short messages, spam or not, as tokens. (Almeida et al. 2011, DocEng)

Words are hashed, so that there is no vocabulary to build, to agree on or to send (Weinberger et al. 2009, §2): a token
is 1 + CRC-32 of the word's UTF-8 modulo (VOCABULARY − 1). Token 0 is padding, at the end.
"""

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.base import Stored, holdout
from fedlite.errors import DataError

VOCABULARY = 4096
LENGTH = 48  # tokens of a message: 19 of 20 have fewer
MAX_BYTES = 2**26

_LABELS = {"ham": 0, "spam": 1}
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_+")


def tokens_of(text: str, length: int = LENGTH, vocabulary: int = VOCABULARY) -> NDArray[np.int64]:
    """A text as int64 (length,): its first words, in small letters, then 0s.

    A word is a run of letters, or of digits (of which only their number counts), or one other sign.
    """
    found = np.zeros(length, np.int64)
    words = _WORD.findall(text.lower())[:length]
    for place, word in enumerate(words):
        plain = "0" * len(word) if word.isdigit() else word
        found[place] = 1 + zlib.crc32(plain.encode()) % (vocabulary - 1)
    return found


def sms_spam(path: Path, split: str, *, length: int = LENGTH, vocabulary: int = VOCABULARY) -> Stored:
    """Messages as tokens (n, length); class 0 is ham, 1 spam. One fifth of each class is test.

    DataError for a file that is not gzipped lines of `ham` or `spam`, a tab and a text.
    """
    messages = [_parted(line, number, path) for number, line in enumerate(_lines(path), 1)]
    if not messages:
        raise DataError(f"{path} holds no message")
    y = np.array([label for label, _ in messages], np.int64)
    chosen = holdout(y, split)
    x = np.stack([tokens_of(messages[index][1], length, vocabulary) for index in chosen])
    return Stored(
        x.astype(np.uint16 if vocabulary <= 2**16 else np.int64), y[chosen], 2, "sms_spam", None, _wide
    )


def _parted(line: str, number: int, path: Path) -> tuple[int, str]:
    label, tab, text = line.partition("\t")
    if label not in _LABELS or not tab:
        raise DataError(f"{path}, line {number}: {line[:20]!r} does not begin with ham or spam and a tab")
    return _LABELS[label], text


def _lines(path: Path) -> list[str]:
    try:
        with gzip.open(path) as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not gzipped UTF-8 text: {error}") from error
    if len(raw) > MAX_BYTES:
        raise DataError(f"{path} unpacks to more than {MAX_BYTES} bytes")
    return text.rstrip("\n").split("\n") if text.strip() else []


def _wide(x: NDArray[Any]) -> NDArray[np.int64]:
    return x.astype(np.int64)
