"""Enrolled devices on threads of the test process: real keys, certificates and sockets, any behaviour."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedlite.apps.client import client_app
from fedlite.apps.device import Device, Fixed, Ram
from fedlite.crypto.identity import verify_manifest
from fedlite.flower import Context, Message, RecordDict
from fedlite.link.client import LinkClient
from fedlite.link.credentials import ClientCredentials
from fedlite.link.enrol import Enrolment, load_enrolment
from fedlite.uplink import Sealed, Sender
from tests.integration.federation import shares

Handle = Callable[[Message], Message]


@dataclass(frozen=True)
class Peer:
    """Who connects, and how it answers."""

    enrolment: Enrolment
    handle: Handle


def honest(home: Path, name: str, index: int, sender: Callable[[Enrolment], Sender] | None = None) -> Peer:
    """The device enrolled as `name`, with share `index` of some digits."""
    enrolment, share = load_enrolment(home / name), shares(4)[index]
    device = Device(
        enrolment.identity.public.client_id,
        Fixed(share.x, share.y),
        Ram(),
        sender(enrolment) if sender else Sealed(enrolment.identity, enrolment.server),
        lambda text, signature: verify_manifest(enrolment.server, text, signature),
    )
    app, context = client_app(lambda context: device), Context(0, 1, {}, RecordDict(), {})
    return Peer(enrolment, lambda message: app(message, context))


@contextmanager
def on_the_link(home: Path, *peers: Peer) -> Iterator[None]:
    """Each connects to the server it joined, and again whenever it must, until the end."""
    stop = threading.Event()
    threads = [threading.Thread(target=_take_part, args=(peer, stop)) for peer in peers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _take_part(peer: Peer, stop: threading.Event) -> None:
    own = peer.enrolment
    credentials = ClientCredentials(own.ca_pem, own.certificate_pem, own.private_key_pem)
    LinkClient(own.link_address, credentials, peer.handle, stop=stop).run()
