import io
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite.errors import DataError
from fedlite.online import StdinSource
from fedlite.online.stdin import MOST_BYTES


def reader(line: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    if not line.isdigit():
        raise DataError(f"{line[:10]!r} is no number")
    return np.array([[int(line)]], dtype=np.float32), np.array([int(line) % 10])


def everything(source: StdinSource) -> list[int]:
    found: list[int] = []
    while not source.ended:
        found += [int(x[0, 0]) for x, _ in source.poll()]
    return found


def test_lines_become_samples_in_order() -> None:
    source = StdinSource(reader, io.BytesIO(b"12\n7\n\n 8 \n9"))
    assert everything(source) == [12, 7, 8, 9]
    assert source.num_rejected == 0


@pytest.mark.parametrize("bad", [b"x", b"\xff\xfe", b"9" * (MOST_BYTES + 10), b"9" * (3 * MOST_BYTES)])
def test_a_bad_line_is_named_and_the_next_one_read(bad: bytes) -> None:
    source = StdinSource(reader, io.BytesIO(b"1\n" + bad + b"\n2\n"))
    assert everything(source) == [1, 2]
    assert source.num_rejected == 1
    assert source.last_rejected.startswith("line 2: ")


def test_poll_takes_no_more_than_asked_for() -> None:
    source = StdinSource(reader, io.BytesIO(b"".join(b"%d\n" % n for n in range(50))))
    found: list[int] = []
    while not source.ended:
        batch = source.poll(limit=7)
        assert len(batch) <= 7
        found += [int(x[0, 0]) for x, _ in batch]
    assert found == list(range(50))


def test_a_full_queue_holds_the_writer_back_and_loses_nothing() -> None:
    """A pipe holds 64 KiB and the queue 64 lines of 100 bytes: less than the 150 kB written into it."""
    read, write = os.pipe()
    line = b"1" * 99 + b"\n"
    count = 1500

    def feed() -> None:
        with os.fdopen(write, "wb") as out:
            for _ in range(count):
                out.write(line)

    writer = threading.Thread(target=feed)
    with os.fdopen(read, "rb") as stream:
        source = StdinSource(lambda _: (np.zeros((1, 1)), np.zeros(1, np.int64)), stream, capacity=64)
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        total = 0
        while not source.ended:
            total += len(source.poll())
        writer.join()
    assert total == count


def test_a_program_can_end_while_its_input_is_still_open() -> None:
    program = (
        "import sys, time\nfrom fedlite.online import StdinSource\n"
        "source = StdinSource(lambda line: (line, line))\n"
        "while not (found := source.poll()): time.sleep(0.01)\n"
        "print(found[0][0])\n"
    )
    command = [sys.executable, "-X", "dev", "-c", program]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write("hello\n")
        child.stdin.flush()
        assert child.wait(60) == 0
        assert child.stdout.read() == "hello\n"
        assert child.stderr.read() == ""
