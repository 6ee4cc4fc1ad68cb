"""A server that has made its first model, and three devices that have joined it; all stopped."""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest

from fedlite.apps.program import main
from tests.programs.programs import DEVICES, Done, copied, invite, run, serving

Body = Callable[[Sequence[str], Event], int]


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; tests work on copies."""
    home = tmp_path_factory.mktemp("programs") / "home"
    home.mkdir()
    with serving(home / "server") as server:
        server.wait_for("waits for clients")
        for name in DEVICES:
            done = run("client", "join", invite(home / "server", name), "--state-dir", home / name)
            assert done.code == 0, done.err
        assert server.end(signal.SIGTERM).code == 0
    return home


@pytest.fixture
def home(origin: Path, tmp_path: Path) -> Path:
    """A copy of the server's state in `server`, and of the devices' in `one`, `two` and `three`."""
    return copied(origin, tmp_path / "home")


@pytest.fixture
def program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Done]]:
    """A program's whole `main`, in this process, which has torch loaded already."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(body: Body, *arguments: object) -> Done:
        code = main(body, [str(each) for each in arguments])
        return Done(code, *capsys.readouterr())

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)
    logging.getLogger("fedlite").handlers.clear()
