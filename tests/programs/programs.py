"""The programs as their users run them: real processes, real sockets, and what a refusal must look like."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ("one", "two", "three")
# A job that needs no torch on a server that has its first model: it starts in a second.
JOB = ("--model", "linear", "--bits", "32", "--epochs", "1", "--evaluate-every", "0")
LOCAL = ("--listen", "127.0.0.1:0", "--join-listen", "127.0.0.1:0")
BAD_SETTINGS, FAILED = 2, 1


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    code: int
    out: str
    err: str


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    """A user's: without what Flower set in this process when it was imported."""
    own = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    return own | {"PYTHONFAULTHANDLER": "1"}


def run(module: str, *arguments: object, timeout: float = 60) -> Done:
    """Run a program to its end, with nothing on its standard input."""
    done = subprocess.run(
        python(module, *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(),
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def assert_refused(done: Done, code: int, *words: str) -> str:
    """The program ended with `code`, one line `error: … (remedy)` that holds all `words`, and no traceback."""
    everything = done.out + done.err
    assert "Traceback" not in everything, everything
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, everything
    assert done.err.splitlines()[-1] == errors[0]
    assert errors[0].endswith(")")
    assert " (" in errors[0]
    for word in words:
        assert word in errors[0]
    assert done.code == code, everything
    return errors[0]


class Program:
    """A program that runs; its output goes to a file."""

    def __init__(self, child: "subprocess.Popen[bytes]", log: Path) -> None:
        self.child, self.log = child, log

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text()

    def wait_for(self, words: str, *, count: int = 1) -> None:
        """Until it has written `words` so many times."""
        for _ in range(1200):
            if self.text.count(words) >= count:
                return
            assert self.child.poll() is None, self.text
            time.sleep(0.05)
        raise AssertionError(self.text)

    def end(self, number: int | None = None) -> Done:
        """Send it a signal, if one is given, and wait for its end."""
        if number is not None:
            self.child.send_signal(number)
        try:
            code = self.child.wait(60)
        except subprocess.TimeoutExpired:
            self.child.send_signal(signal.SIGABRT)  # faulthandler then writes where every thread is
            self.child.wait(60)
            raise AssertionError(f"it does not end: {self.text}") from None
        return Done(code, self.text, self.text)


@contextmanager
def started(log: Path, module: str, *arguments: object, prefix: tuple[str, ...] = ()) -> Iterator[Program]:
    """A program in the background; killed in the end if it still runs."""
    with (
        log.open("wb") as out,
        subprocess.Popen(
            python(module, *arguments),
            cwd=ROOT,
            env=environment(),
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        ) as child,
    ):
        try:
            yield Program(child, log)
        finally:
            if child.poll() is None:
                child.kill()


@contextmanager
def serving(state: Path, *arguments: object) -> Iterator[Program]:
    """A server of a copied home, once it listens."""
    log = state.with_suffix(".log")
    with started(log, "server", "--state-dir", state, *LOCAL, *JOB, *arguments) as server:
        server.wait_for("listening on")
        yield server


def invite(state: Path, name: str, *arguments: object) -> str:
    """A join code."""
    done = run("server", "invite", name, "--state-dir", state, *arguments)
    assert done.code == 0, done.err
    return done.out.strip()


def copied(home: Path, to: Path) -> Path:
    """A home of one's own: the server's folder and the devices'."""
    shutil.copytree(home, to)
    return to
