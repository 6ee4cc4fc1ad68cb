"""Taking part: offers in over the link, reports out, until stopped."""

import logging
import sys
from threading import Event

from client.config import Config
from client.samples import open_source
from fedlite.apps.client import client_app
from fedlite.apps.device import Device, Limits, Stored, open_teacher
from fedlite.crypto.files import locked
from fedlite.crypto.identity import verify_manifest
from fedlite.crypto.invite import join_address, split_address
from fedlite.flower import Context, RecordDict
from fedlite.ledger.shelf import Shelf
from fedlite.link.client import LinkClient
from fedlite.link.credentials import ClientCredentials
from fedlite.link.enrol import Enrolment, load_enrolment
from fedlite.uplink import Sealed

MEMORY_FILE = "memory.db"


def take_part(config: Config, stop: Event) -> None:
    """Run until `stop`. AccessError when the server shuts this device out, SettingsError for what cannot work."""
    _log_to_stderr()
    enrolment = load_enrolment(config.state_dir)
    address = join_address(*split_address(config.server or enrolment.link_address))
    source = open_source(config)
    _prepare_processor(config)
    with locked(config.state_dir, wait=False), Shelf(config.state_dir / MEMORY_FILE) as shelf:
        public = enrolment.identity.public
        device = Device(
            client_id=public.client_id,
            source=source,
            memory=Stored(shelf),
            sender=Sealed(enrolment.identity, enrolment.server),
            verify=lambda text, signature: verify_manifest(enrolment.server, text, signature),
            compute=config.device,
            limits=Limits(config.max_epochs, config.max_parameters),
            teacher=open_teacher(config.teacher),
            uplink_budget=config.budget,
            folder=config.state_dir,
        )
        app = client_app(lambda context: device)
        context = Context(0, public.node_id, {}, RecordDict(), {})
        LinkClient(address, _credentials(enrolment), lambda message: app(message, context), stop=stop).run()


def _credentials(enrolment: Enrolment) -> ClientCredentials:
    return ClientCredentials(enrolment.ca_pem, enrolment.certificate_pem, enrolment.private_key_pem)


def _prepare_processor(config: Config) -> None:
    """Threads and processor as asked. SettingsError for a processor that is not here."""
    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    if config.device != "cpu":
        from fedlite.train import check_device

        check_device(config.device)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("fedlite")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
