"""A real fleet in one test process: an authority, certificates, a server, and clients on threads."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from fedlite.crypto.certificates import (
    Authority,
    create_authority,
    issue_client_certificate,
    make_csr,
    make_device_key,
)
from fedlite.errors import AccessError, FedliteError
from fedlite.flower import Message
from fedlite.link.client import LinkClient
from fedlite.link.connection import Peer
from fedlite.link.credentials import ClientCredentials, ServerCredentials
from fedlite.link.grid import LinkGrid
from fedlite.link.server import LinkServer

RUN_ID = 2**63 + 5
PATIENCE_SECONDS = 60.0


def make_authority(folder: Path) -> Authority:
    folder.mkdir(mode=0o700)
    return create_authority(folder)


def device(authority: Authority, name: str) -> ClientCredentials:
    key = make_device_key()
    return ClientCredentials(
        authority.ca_pem, issue_client_certificate(authority, make_csr(key, name), name), key
    )


def server_credentials(authority: Authority) -> ServerCredentials:
    return ServerCredentials(authority.ca_pem, authority.server_pem, authority.server_key_pem)


class Admission:
    """Admits every certificate of the authority but the revoked ones; the node id is a hash of it."""

    def __init__(self) -> None:
        self.revoked: set[int] = set()

    def __call__(self, certificate: bytes) -> Peer:
        node_id = int.from_bytes(hashlib.sha256(certificate).digest()[:8], "big")
        if node_id in self.revoked:
            raise AccessError("the certificate was revoked")
        return Peer(node_id, f"device {node_id}", str(node_id))


def echo(message: Message) -> Message:
    return Message(message.content, reply_to=message)


class Running:
    """A client on a thread; `error` is what ended it."""

    def __init__(
        self, address: str, credentials: ClientCredentials, handle: Callable[[Message], Message] = echo
    ) -> None:
        self.stop = threading.Event()
        self.error: FedliteError | None = None
        self._client = LinkClient(address, credentials, handle, stop=self.stop)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._client.run()
        except FedliteError as error:
            self.error = error

    def ended(self) -> FedliteError | None:
        """What ended it by itself."""
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive()
        return self.error

    def end(self) -> None:
        self.stop.set()
        assert self.ended() is None


class Fleet:
    """A server with its grid, and any number of clients; use as a context manager."""

    def __init__(self, authority: Authority, *, listen: str = "127.0.0.1:0", **options: int) -> None:
        self.authority = authority
        self.admission = Admission()
        self.server = LinkServer(listen, server_credentials(authority), self.admission, **options)
        self.grid = LinkGrid(self.server, RUN_ID)
        self.address = ""
        self.clients: list[Running] = []

    def __enter__(self) -> Self:
        self.address = self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.stop.set()
        for client in self.clients:
            client.end()
        self.server.stop()

    def join(self, *handles: Callable[[Message], Message]) -> list[int]:
        """Clients that connect one after another; their node ids in that order."""
        nodes = []
        for handle in handles:
            before = set(self.grid.get_node_ids())
            self.clients.append(
                Running(self.address, device(self.authority, f"device-{len(self.clients)}"), handle)
            )
            self.wait_for(lambda before=before: set(self.grid.get_node_ids()) - before)
            nodes += set(self.grid.get_node_ids()) - before
        return nodes

    def wait_for(self, condition: Callable[[], object]) -> None:
        for _ in range(int(PATIENCE_SECONDS * 20)):
            if condition():
                return
            self.grid.wait(0.05)
        raise AssertionError("it did not happen")


@contextlib.contextmanager
def quiet_ending(fleet: Fleet) -> Iterator[Fleet]:
    """A fleet whose clients may have ended with an error that the test looked at."""
    with fleet:
        yield fleet
        fleet.clients = [client for client in fleet.clients if client.error is None]
