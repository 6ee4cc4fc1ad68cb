"""How the server's C library gives memory back."""

import ctypes
import logging

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BYTES = 1024 * 1024


def keep_large_buffers_apart() -> None:
    """From 1 MiB up, take each buffer from the system and give it back alone (glibc; elsewhere nothing changes).

    Left alone, glibc raises that bound to 32 MiB as it goes; then replies that grow side by side leave holes
    in one heap, and two of 10 MB peak at 7.4 payloads instead of under 4 (scripts/bench/link.py).
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    except (AttributeError, OSError):
        logging.getLogger("fedlite.link").debug("no mallopt here: large buffers stay in the heap")
