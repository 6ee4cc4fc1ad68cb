"""How freed memory is kept: a simulator takes and frees the same large blocks round after round."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3) of glibc
_MOST = 2**30


def keep_freed_memory() -> None:
    """Let this process keep blocks up to a gigabyte for its next allocations, rather than give each back.

    With glibc a block of some megabytes is otherwise new pages every time, zeroed by the system one by one while all
    threads wait: a third of a small model's round. Nothing elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_MMAP_THRESHOLD, _MOST)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
