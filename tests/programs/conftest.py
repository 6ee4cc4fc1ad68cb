"""A server that has made its first model, and three devices that have joined it; all stopped."""

import signal
from pathlib import Path

import pytest

from tests.programs.programs import DEVICES, copied, invite, run, serving


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
