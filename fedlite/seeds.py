"""Named random streams: `derive(seed, "client", round_num, client_id)` is the same wherever it is called.

A stream's name is hashed, so a client's draws do not depend on who else took part or in which order.
Never for secrets: those come from the operating system.
"""

import hashlib

import numpy as np

Label = str | int


def derive(seed: int, *labels: Label) -> int:
    """A 63-bit seed for the stream these labels name: SHA-256 over their length-prefixed text."""
    digest = hashlib.sha256()
    for label in (seed, *labels):
        text = f"{type(label).__name__}:{label}".encode()
        digest.update(len(text).to_bytes(4, "big") + text)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def generator(seed: int, *labels: Label) -> np.random.Generator:
    """A NumPy generator on the stream these labels name."""
    return np.random.default_rng(derive(seed, *labels))
