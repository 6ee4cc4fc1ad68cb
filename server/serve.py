"""The server itself: link and enrolment up, rounds run, results left."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from fedlite import config as records
from fedlite.apps.cohort import Party
from fedlite.apps.job import Workshop, make_job, open_ledger
from fedlite.apps.report import recorder
from fedlite.apps.server import run
from fedlite.crypto.certificates import Authority
from fedlite.crypto.files import locked
from fedlite.crypto.identity import Identity, PublicIdentity, sign_manifest
from fedlite.crypto.invite import shown_fingerprint
from fedlite.errors import AccessError
from fedlite.ledger.fleet import Device, Fleet
from fedlite.link.connection import Peer
from fedlite.link.credentials import ServerCredentials
from fedlite.link.enrol import JoinServer
from fedlite.link.grid import LinkGrid
from fedlite.link.server import LinkServer
from fedlite.uplink import Unsealer
from server.config import Config
from server.state import (
    FLEET_FILE,
    LEDGER_FILE,
    Addresses,
    load_addresses,
    open_authority,
    reachable,
    save_addresses,
)


def serve(config: Config, stop: Event) -> Path:
    """Run the job to its end, or until `stop`; returns the results folder."""
    hosts = (config.advertise,) if config.advertise else ()
    authority, identity = open_authority(config.state_dir, hosts)
    folder = config.run_dir or config.state_dir / "results"
    workshop = Workshop(config, sealed=True)
    with (
        locked(config.state_dir, wait=False),
        Fleet(config.state_dir / FLEET_FILE) as fleet,
        open_ledger(workshop, config.state_dir / LEDGER_FILE, folder) as ledger,
        listening(config, authority, identity, fleet) as link,
    ):
        roster = Roster(fleet)
        receiver = Unsealer(identity, roster.identity)
        job = make_job(
            workshop,
            receiver,
            lambda text: sign_manifest(identity, text),
            roster.party,
            patient=True,
            shut_out=roster.revoked,
        )
        grid = LinkGrid(link, int.from_bytes(ledger.run_id[:8], "big") >> 1)
        with recorder(
            folder,
            records.record(config),
            config.rounds,
            f"fedlite server, {config.strategy}",
            ledger,
        ) as watcher:
            model = run(grid, job, ledger, watcher, stop)
            workshop.write(folder, model)
    return folder


@contextmanager
def listening(config: Config, authority: Authority, identity: Identity, fleet: Fleet) -> Iterator[LinkServer]:
    """Link and enrolment, started and in the end stopped."""
    credentials = ServerCredentials(authority.ca_pem, authority.server_pem, authority.server_key_pem)
    link = LinkServer(_listen(config.listen, config, "link"), credentials, Roster(fleet).admit)
    bound = link.start()
    try:
        enrolment = JoinServer(
            _listen(config.join_listen, config, "join"),
            authority,
            identity.public,
            lambda secret_hash, make: fleet.redeem(secret_hash, time.time(), make),
            lambda: reachable(bound, config.advertise),
        )
        join_bound = enrolment.start()
        try:
            addresses = Addresses(reachable(bound, config.advertise), reachable(join_bound, config.advertise))
            save_addresses(config.state_dir, addresses)
            print(f"listening on {addresses.link}, enrolment on {addresses.join}", flush=True)
            print(f"fingerprint {shown_fingerprint(authority.server_pem)}, as in its join codes", flush=True)
            yield link
        finally:
            enrolment.stop()
    finally:
        link.stop()


def _listen(address: str, config: Config, which: str) -> str:
    """The address to bind; a free port once picked is kept, so that devices find the server again."""
    host, _, port = address.rpartition(":")
    if port != "0" or (before := load_addresses(config.state_dir)) is None:
        return address
    return f"{host}:{getattr(before, which).rpartition(':')[2]}"


class Roster:
    """The fleet as the link and the rounds ask for it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._parties: dict[int, Party] = {}
        self._revoked: tuple[int, frozenset[int]] = (-1, frozenset())  # as of a version of the fleet

    def admit(self, certificate: bytes) -> Peer:
        """Who a certificate (DER) belongs to. AccessError for an unknown or revoked device."""
        device = self._fleet.find_by_certificate(hashlib.sha256(certificate).digest())
        if device is None:
            raise AccessError("this certificate belongs to no device of this server")
        if device.status != "active":
            raise AccessError(f"device {device.name!r} was revoked")
        public = _public(device)
        self._parties[public.node_id] = Party(device.key_id, device.name)
        return Peer(public.node_id, device.name, device.key_id)

    def identity(self, key_id: bytes) -> PublicIdentity | None:
        """The keys of an active device."""
        device = self._fleet.find(key_id.hex())
        return _public(device) if device is not None and device.status == "active" else None

    def party(self, node_id: int) -> Party:
        """Who a node is."""
        if node_id not in self._parties:
            self._parties |= {
                _public(device).node_id: Party(device.key_id, device.name) for device in self._fleet.devices()
            }
        return self._parties[node_id]

    def revoked(self) -> frozenset[int]:
        """The nodes that were shut out."""
        if (version := self._fleet.version()) != self._revoked[0]:
            nodes = (_public(each).node_id for each in self._fleet.devices() if each.status == "revoked")
            self._revoked = version, frozenset(nodes)
        return self._revoked[1]


def _public(device: Device) -> PublicIdentity:
    return PublicIdentity(device.signing_key, device.sealing_key)
