"""A join server with its fleet, raw connections to it, and servers that follow a script."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlite.crypto.certificates import (
    Authority,
    create_authority,
    fingerprint,
    make_csr,
    make_device_key,
)
from fedlite.crypto.identity import Identity, PublicIdentity
from fedlite.crypto.invite import make_code, parse_code
from fedlite.ledger.fleet import Device, Fleet
from fedlite.link.enrol import JoinServer
from fedlite.link.enrol_wire import make_request

LINK_ADDRESS = "pi.local:9444"
FILES = {"identity.key", "device.key.pem", "device.cert.pem", "ca.cert.pem", "enrolment.json"}


@dataclass
class Site:
    """A running join server with its fleet."""

    authority: Authority
    identity: Identity
    fleet: Fleet
    address: str = ""

    def invite(self, name: str = "kitchen-pi", *, minutes: float = 15) -> str:
        code, kept = make_code(self.address, self.authority.server_pem)
        self.fleet.invite(name, kept, time.time() + 60 * minutes)
        return code

    def redeem(self, kept: bytes, make: Callable[[str], Device]) -> Device:
        return self.fleet.redeem(kept, time.time(), make)

    @contextmanager
    def serving(self, **options: Any) -> Iterator["Site"]:
        redeem = options.pop("redeem", self.redeem)
        listen = options.pop("listen", "127.0.0.1:0")
        server = JoinServer(
            listen, self.authority, self.identity.public, redeem, lambda: LINK_ADDRESS, **options
        )
        self.address = server.start()
        try:
            yield self
        finally:
            server.stop()
            assert not [t for t in threading.enumerate() if "process_request_thread" in t.name]


def new_site(folder: Path) -> Site:
    return Site(create_authority(folder), Identity.generate(), Fleet(folder / "fleet.db"))


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def pinless() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def connected(site: Site) -> Iterator[ssl.SSLSocket]:
    """TLS with the join server, after its greeting."""
    host, _, port = site.address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as raw, pinless().wrap_socket(raw) as tls:
        greeting = receive(tls)
        assert greeting is not None
        assert greeting["fedlite"] == "join 1"
        yield tls


def receive(tls: ssl.SSLSocket) -> dict[str, Any] | None:
    """One frame, or None when the other side closes."""
    try:
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            if not (part := tls.recv(4096)):
                return None
            data += part
    except (ssl.SSLError, ConnectionError):
        return None
    return json.loads(data[4:])


def say(site: Site, data: bytes) -> dict[str, Any]:
    """The answer to some bytes; ConnectionError when there is none."""
    with connected(site) as tls:
        tls.sendall(data)
        answer = receive(tls)
    if answer is None:
        raise ConnectionError
    return answer


def resigned(site: Site, code: str, **changes: Any) -> bytes:
    """A request whose proof is good, with other content."""
    identity = Identity.generate()
    csr = make_csr(make_device_key(), changes.get("key_id", identity.public.client_id))
    if "sealing_key" in changes:
        identity.public = PublicIdentity(identity.public.signing_key, changes["sealing_key"])
    shown = changes.get("fingerprint", fingerprint(site.authority.server_pem))
    request = make_request(parse_code(code).secret, identity, changes.get("csr", csr), shown)
    return frame(json.dumps(request.to_message()).encode())


@contextmanager
def scripted(authority: Authority, script: Callable[[ssl.SSLSocket], None]) -> Iterator[str]:
    """Serve one connection with the authority's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server_file)
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        raw, _ = listener.accept()
        with raw, context.wrap_socket(raw, server_side=True) as tls:
            tls.settimeout(20)
            script(tls)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join()
        listener.close()
