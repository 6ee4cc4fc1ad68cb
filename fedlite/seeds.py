"""Named random streams: `derive(seed, "client", round_num, client_id)` is the same wherever it is called.

A stream's name is hashed, so a client's draws do not depend on who else took part or in which order.
Never for secrets: those come from the operating system.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Label = str | int


def derive(seed: int, *labels: Label) -> int:
    """A 63-bit seed for the stream these labels name: SHA-256 over their length-prefixed text."""
    digest = hashlib.sha256(b"".join(map(_prefixed, (seed, *labels)))).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_each(
    each: Iterable[Label], *, before: Sequence[Label] = (), after: Sequence[Label] = ()
) -> NDArray[np.uint64]:
    """(labels): `derive(*before, label, *after)` for each; a cohort's seeds, in half of the time."""
    head, tail = (b"".join(map(_prefixed, labels)) for labels in (before, after))
    digests = [hashlib.sha256(head + _prefixed(label) + tail).digest()[:8] for label in each]
    return (np.frombuffer(b"".join(digests), ">u8") >> 1).astype(np.uint64)


def _prefixed(label: Label) -> bytes:
    text = f"{type(label).__name__}:{label}".encode()
    return len(text).to_bytes(4, "big") + text


def generator(seed: int, *labels: Label) -> np.random.Generator:
    """A NumPy generator on the stream these labels name."""
    return np.random.default_rng(derive(seed, *labels))
