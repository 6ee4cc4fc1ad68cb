"""Samples from standard input, one per line: a thread reads ahead into a bounded queue, the program polls.

When the queue is full the thread waits, and with it the program that writes into the pipe: nothing is lost.
"""

import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError

Samples = tuple[NDArray[Any], NDArray[np.int64]]

MOST_LINES = 1024
MOST_BYTES = 2**20


class StdinSource:
    """Lines → samples; a bad line is counted and named, and the next one is read."""

    def __init__(
        self, reader: Callable[[str], Samples], stream: BinaryIO | None = None, *, capacity: int = MOST_LINES
    ) -> None:
        """Start reading `stream` (standard input); `reader` turns a line into samples or raises DataError.

        At most `capacity` lines, each of at most 1 MiB, wait in memory.
        """
        self._reader = reader
        # a copy of the handle: Python cannot shut down while a thread sits in the original's lock
        self._stream = stream or os.fdopen(os.dup(sys.stdin.fileno()), "rb")
        self._lines: queue.Queue[bytes | None] = queue.Queue(capacity)
        self._number = 0
        self.num_rejected = 0
        self.last_rejected = ""
        self.ended = False
        threading.Thread(target=self._pump, name="fedlite-stdin", daemon=True).start()

    def poll(self, limit: int = MOST_LINES) -> list[Samples]:
        """The samples of the lines that came since, at most `limit`, in order; never waits.

        Afterwards `ended` says whether there will be no more; `num_rejected` and `last_rejected` which lines
        could not be used.
        """
        found: list[Samples] = []
        while len(found) < limit and not self.ended:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                break
            if line is None:
                self.ended = True
            elif (samples := self._parse(line)) is not None:
                found.append(samples)
        return found

    def _pump(self) -> None:
        try:
            while line := self._stream.readline(MOST_BYTES + 1):
                self._lines.put(line)
                while len(line) > MOST_BYTES and not line.endswith(b"\n"):
                    line = self._stream.readline(MOST_BYTES + 1)  # the rest of a line that is refused
        except (OSError, ValueError):
            pass  # the stream was closed under us: that is its end
        self._lines.put(None)

    def _parse(self, line: bytes) -> Samples | None:
        self._number += 1
        try:
            if len(line) > MOST_BYTES:
                raise DataError(f"longer than {MOST_BYTES} bytes")
            text = line.decode("utf-8").strip()
            return self._reader(text) if text else None
        except (DataError, ValueError) as error:
            self.num_rejected += 1
            self.last_rejected = f"line {self._number}: {error}"
            return None
