"""A small federation for tests: the same job on the in-process grid and over the real link."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from fedlite.apps.client import client_app
from fedlite.apps.device import Device, Fixed, Ram, open_teacher
from fedlite.apps.gathering import name_of
from fedlite.apps.job import Workshop, make_job, node, unsigned, unverified
from fedlite.apps.server import run
from fedlite.apps.settings import JobSettings
from fedlite.crypto.certificates import (
    create_authority,
    fingerprint,
    issue_client_certificate,
    make_csr,
    make_device_key,
)
from fedlite.crypto.identity import Identity, sign_manifest, verify_manifest
from fedlite.data.base import Dataset
from fedlite.data.partition import split
from fedlite.data.spec import open_data
from fedlite.flower import Context, RecordDict
from fedlite.ledger.fleet import Device as Enrolled
from fedlite.ledger.fleet import Fleet
from fedlite.ledger.store import Ledger
from fedlite.link.client import LinkClient
from fedlite.link.credentials import ClientCredentials, ServerCredentials
from fedlite.link.grid import LinkGrid
from fedlite.link.server import LinkServer
from fedlite.rounds import Model
from fedlite.uplink import Clear, Sealed, Unsealer
from fedlite.virtual.grid import VirtualGrid
from server.serve import Roster


@dataclass
class Notes:
    """A watcher that remembers."""

    rows: list[Mapping[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def status(self, text: str) -> None:
        self.texts.append(text)

    def row(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)


def shares(count: int, *, limit: int = 150) -> list[Dataset]:
    """`count` unequal shares of some digits."""
    digits = open_data("digits").take(np.arange(limit))
    return [digits.take(part) for part in split(digits, "dirichlet:1", count, 3)]


def virtually(
    settings: JobSettings,
    data: list[Dataset],
    path: Path,
    *,
    workers: int = 1,
    wrap: Callable[[Device], Device] = lambda device: device,
) -> tuple[Model, Notes]:
    """Run in process."""
    memories = [Ram() for _ in data]

    def device_of(context: Context) -> Device:
        index = int(context.node_config["partition-id"])
        share = data[index]
        source, teacher = Fixed(share.x, share.y), open_teacher(settings.teacher)
        return wrap(Device(name_of(index), source, memories[index], Clear(), unverified, teacher=teacher))

    notes = Notes()
    with (
        Ledger.open(path / "ledger.db", settings.identity()) as ledger,
        VirtualGrid(client_app(device_of), len(data), workers=workers) as grid,
    ):
        return run(grid, make_job(Workshop(settings), Clear(), unsigned, node), ledger, notes, Event()), notes


@dataclass
class Fleetlet:
    """A server's keys and fleet in a folder, with devices enrolled by hand."""

    path: Path

    def __post_init__(self) -> None:
        self.authority = create_authority(self.path)
        self.identity = Identity.generate()
        self.fleet = Fleet(self.path / "fleet.db")
        self.names: dict[str, Identity] = {}

    def enrol(self, name: str, identity: Identity | None = None) -> tuple[Identity, ClientCredentials]:
        identity, key = identity or Identity.generate(), make_device_key()
        client_id = identity.public.client_id
        certificate = issue_client_certificate(self.authority, make_csr(key, client_id), client_id)
        secret = name.encode().ljust(32, b"\0")
        enrolled = Enrolled(
            name,
            client_id,
            identity.public.signing_key,
            identity.public.sealing_key,
            fingerprint(certificate),
            "active",
            0.0,
        )
        self.fleet.invite(name, secret, 1e12)
        self.fleet.redeem(secret, 0.0, lambda _: enrolled)
        return identity, ClientCredentials(self.authority.ca_pem, certificate, key)

    def server_credentials(self) -> ServerCredentials:
        authority = self.authority
        return ServerCredentials(authority.ca_pem, authority.server_pem, authority.server_key_pem)


@contextmanager
def device_thread(
    address: str, device: Device, credentials: ClientCredentials, stop: Event
) -> Iterator[None]:
    """A device on the link, in a thread of this process."""
    app = client_app(lambda context: device)
    context = Context(0, 1, {}, RecordDict(), {})
    client = LinkClient(address, credentials, lambda message: app(message, context), stop=stop)
    thread = Thread(target=client.run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def over_the_link(
    settings: JobSettings,
    data: list[Dataset],
    path: Path,
    *,
    through: Callable[[str], str] = lambda address: address,
) -> tuple[Model, Notes]:
    """Run over real sockets with mutual TLS and sealed updates; `through` is asked by which address, in turn."""
    fleetlet = Fleetlet(path)
    roster = Roster(fleetlet.fleet)
    server = LinkServer("127.0.0.1:0", fleetlet.server_credentials(), roster.admit)
    address, stop, notes = server.start(), Event(), Notes()
    public = fleetlet.identity.public
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open(path / "ledger.db", settings.identity()))
        stack.callback(server.stop)
        identities = [Identity.generate() for _ in data]
        identities.sort(key=lambda each: each.public.client_id)  # a round's sums are in this order
        for index, (share, identity) in enumerate(zip(data, identities, strict=True)):
            _, credentials = fleetlet.enrol(f"device-{index}", identity)
            device = Device(
                client_id=name_of(index),
                source=Fixed(share.x, share.y),
                memory=Ram(),
                sender=Sealed(identity, public),
                verify=lambda text, signature: verify_manifest(public, text, signature),
                teacher=open_teacher(settings.teacher),
            )
            stack.enter_context(device_thread(through(address), device, credentials, stop))
        receiver = Unsealer(fleetlet.identity, roster.identity)
        job = make_job(
            Workshop(settings), receiver, lambda text: sign_manifest(fleetlet.identity, text), roster.party
        )
        grid = LinkGrid(server, int.from_bytes(ledger.run_id[:8], "big") >> 1)
        return run(grid, job, ledger, notes, Event()), notes
