"""Flower's own link, as real processes: a SuperLink with TLS and node authentication, and SuperNodes.

Everything it needs lies in one temporary folder (FLWR_HOME included), and it listens on the loopback interface.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedlite.crypto.certificates import Authority

APP = """
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

app = ServerApp()
client = ClientApp()

@client.query()
def query(message, context):
    return Message(message.content, reply_to=message)

@app.main()
def main(grid, context):
    while len(list(grid.get_node_ids())) < {clients}:
        time.sleep(0.5)
    seconds = []
    for round_num in range({rounds}):
        content = RecordDict({{"c": ConfigRecord({{"round": round_num}})}})
        messages = [Message(content, dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
        began = time.perf_counter()
        replies = list(grid.send_and_receive(messages, timeout=120))
        if len(replies) != {clients} or any(reply.has_error() for reply in replies):
            raise SystemExit("a reply is missing or an error")
        seconds.append(time.perf_counter() - began)
        part = Path({out!r} + ".part")
        part.write_text(json.dumps(seconds))
        part.rename({out!r})
"""

PYPROJECT = """
[project]
name = "noop"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "noop:app"
clientapp = "noop:client"

[tool.flwr.app.config]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def time_rounds(
    folder: Path, authority: Authority, clients: int, rounds: int, started: list[subprocess.Popen[Any]]
) -> list[float]:
    """Seconds of each no-op round. The processes started are put on `started`, for the caller to end."""
    home, app = folder / "flwr-home", folder / "noop"
    home.mkdir()
    app.mkdir()
    out, port = folder / "seconds.json", free_port()
    (app / "noop.py").write_text(APP.format(clients=clients, rounds=rounds, out=str(out)))
    (app / "pyproject.toml").write_text(PYPROJECT)
    for name, content in (
        ("ca.pem", authority.ca_pem),
        ("server.pem", authority.server_pem),
        ("server.key", authority.server_key_pem),
    ):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{folder / "ca.pem"}"\n'
    )
    stock = _Stock(folder, home, started)
    stock.start(
        "flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key", "--ssl-ca-certfile", "ca.pem",
    )  # fmt: skip
    _wait_for(port)
    for number in range(clients):
        public = _write_key(folder / f"node-{number}")
        stock.run("flwr", "supernode", "register", str(public), "bench")
        stock.start(
            "flower-supernode", "--superlink", f"127.0.0.1:{port}", "--root-certificates", "ca.pem",
            "--auth-supernode-private-key", f"node-{number}", "--host", "127.0.0.1", "--port", str(free_port()),
            "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key", "--ssl-ca-certfile", "ca.pem",
        )  # fmt: skip
    stock.run("flwr", "run", str(app), "bench")
    return _read_when_complete(out, rounds, stock)


class _Stock:
    """Flower's commands, run in the folder with an environment of their own."""

    def __init__(self, folder: Path, home: Path, started: list[subprocess.Popen[Any]]) -> None:
        self.folder = folder
        self._started = started
        self._bin = Path(sys.executable).parent
        self._env = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, name: str, *args: str) -> None:
        with (self.folder / f"{name}-{len(self._started)}.log").open("w") as log:
            self._started.append(
                subprocess.Popen(
                    [self._bin / name, *args], cwd=self.folder, env=self._env, stdout=log, stderr=log
                )
            )

    def run(self, name: str, *args: str) -> None:
        done = subprocess.run(
            [self._bin / name, *args], cwd=self.folder, env=self._env, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{name} {' '.join(args)} failed:\n{done.stdout}{done.stderr}")

    def logs(self) -> str:
        """The last lines of every process's log."""
        found = sorted(self.folder.glob("*.log"))
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-15:]) for path in found
        )


def _write_key(path: Path) -> Path:
    """A P-384 key pair in OpenSSH form, which is what Flower registers; returns the public file."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    public = path.with_suffix(".pub")
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return public


def _wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit(f"nothing listens on port {port}")


def _read_when_complete(out: Path, rounds: int, stock: _Stock) -> list[float]:
    end = time.monotonic() + 60 + 60 * rounds
    while time.monotonic() < end:
        if out.exists() and len(seconds := json.loads(out.read_text())) == rounds:
            return [float(each) for each in seconds]
        time.sleep(0.2)
    sys.exit(f"the stock run did not finish:\n{stock.logs()}")
