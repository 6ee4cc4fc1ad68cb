"""What the link's benchmarks share: an authority and devices in a folder, memory readings, child processes."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from fedlite.crypto.certificates import (  # noqa: E402
    Authority,
    create_authority,
    issue_client_certificate,
    make_csr,
    make_device_key,
)
from fedlite.link.connection import Peer  # noqa: E402
from fedlite.link.credentials import ClientCredentials, ServerCredentials  # noqa: E402
from fedlite.link.server import LinkServer  # noqa: E402


def make_authority(folder: Path) -> Authority:
    folder.mkdir(mode=0o700)
    return create_authority(folder)


def write_device(authority: Authority, folder: Path, name: str) -> Path:
    """A device's three PEM files in a folder of its own."""
    place = folder / name
    place.mkdir(mode=0o700)
    key = make_device_key()
    certificate = issue_client_certificate(authority, make_csr(key, name), name)
    for file, content in (("ca", authority.ca_pem), ("certificate", certificate), ("key", key)):
        (place / file).write_bytes(content)
        (place / file).chmod(0o600)
    return place


def read_device(place: Path) -> ClientCredentials:
    return ClientCredentials(*((place / file).read_bytes() for file in ("ca", "certificate", "key")))


def admit(certificate: bytes) -> Peer:
    """Everyone whom TLS let through; the node id is a hash of the certificate."""
    node_id = int.from_bytes(hashlib.sha256(certificate).digest()[:8], "big")
    return Peer(node_id, f"{node_id:016x}", f"{node_id:016x}")


def make_server(authority: Authority) -> LinkServer:
    credentials = ServerCredentials(authority.ca_pem, authority.server_pem, authority.server_key_pem)
    return LinkServer("127.0.0.1:0", credentials, admit)


def memory_bytes(field: str = "VmRSS", pid: int | str = "self") -> int:
    """VmRSS (resident now) or VmHWM (its peak) of a process."""
    [line] = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith(field)]
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Let VmHWM begin again from what is resident now (Linux, proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def raise_file_limit(want: int) -> None:
    """Each connection is a file: lift the soft limit to what the fleet needs, if the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < want:
        limit = want if hard == resource.RLIM_INFINITY else min(want, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        if limit < want:
            sys.exit(f"{want} open files are needed, this machine's hard limit is {hard}: ulimit -Hn {want}")


@contextmanager
def children() -> Iterator[list[subprocess.Popen[Any]]]:
    """Processes put on this list end with the block, by their own handle and no others."""
    started: list[subprocess.Popen[Any]] = []
    try:
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def setting(**values: Any) -> dict[str, Any]:
    """What a figure needs beside it: the settings, the commit and the machine."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    machine = {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}
    return values | {"commit": commit or "unknown"} | machine


def report(
    figures: dict[str, Any], settings: dict[str, Any], *, more: Mapping[str, Any] | None = None
) -> None:
    """A table for people, then one JSON line for programs, which also has `more`."""
    width = max(map(len, [*figures, *settings]))
    for name, value in (figures | settings).items():
        print(
            f"  {name:<{width}}  {value:.6g}" if isinstance(value, float) else f"  {name:<{width}}  {value}"
        )
    print(json.dumps(figures | {"settings": settings} | dict(more or {})), flush=True)
