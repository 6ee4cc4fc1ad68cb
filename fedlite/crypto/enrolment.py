"""What a device holds once it has joined: one folder of private files.

identity.key  device.key.pem      made here before the server is asked, and never sent
device.cert.pem  ca.cert.pem      from the server
enrolment.json                    written last: its presence says that the device has joined
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from fedlite.crypto.certificates import check_issued, make_device_key, public_key_of
from fedlite.crypto.files import read_private, write_private
from fedlite.crypto.identity import Identity, PublicIdentity
from fedlite.errors import FrameError, StateError

IDENTITY, DEVICE_KEY = "identity.key", "device.key.pem"
DEVICE_CERTIFICATE, CA_CERTIFICATE, RECORD = "device.cert.pem", "ca.cert.pem", "enrolment.json"
FORMAT = "fedlite enrolment 1"


@dataclass(frozen=True)
class Enrolment:
    """A device's name and keys, the server's public keys and `link_address` (host:port), and TLS files as PEM."""

    name: str
    identity: Identity
    server: PublicIdentity
    link_address: str
    ca_pem: bytes
    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)


def check_not_enrolled(state_dir: Path) -> None:
    """StateError when the device has joined already."""
    if (state_dir / RECORD).exists():
        raise StateError(
            f"{state_dir} belongs to a device that has joined already",
            remedy="run it as it is; to join another server, use another --state-dir",
        )


def prepare_keys(state_dir: Path) -> tuple[Identity, bytes]:
    """The device's identity and its TLS key (PEM), made and stored now if an earlier try has not done so."""
    check_not_enrolled(state_dir)
    if not (state_dir / IDENTITY).exists():
        Identity.generate().save(state_dir / IDENTITY)
    if not (state_dir / DEVICE_KEY).exists():
        write_private(state_dir / DEVICE_KEY, make_device_key())
    return Identity.load(state_dir / IDENTITY), _device_key(state_dir)


def save_enrolment(state_dir: Path, enrolment: Enrolment) -> None:
    """Write what the server gave. FrameError unless the certificate is the CA's and for this device's key."""
    check_issued(enrolment.certificate_pem, enrolment.ca_pem, public_key_of(enrolment.private_key_pem))
    record = {
        "format": FORMAT,
        "name": enrolment.name,
        "server_signing_key": enrolment.server.signing_key.hex(),
        "server_sealing_key": enrolment.server.sealing_key.hex(),
        "link_address": enrolment.link_address,
    }
    write_private(state_dir / DEVICE_CERTIFICATE, enrolment.certificate_pem, replace=True)
    write_private(state_dir / CA_CERTIFICATE, enrolment.ca_pem, replace=True)
    write_private(state_dir / RECORD, json.dumps(record, indent=1).encode())


def load_enrolment(state_dir: Path) -> Enrolment:
    """Read what joining wrote.

    StateError when the device has not joined or a file is damaged; SettingsError when others may read one.
    """
    if not (state_dir / RECORD).exists():
        raise StateError(
            f"{state_dir} holds no {RECORD}: this device has not joined a server",
            remedy="join with a code from the operator: python -m server invite NAME",
        )
    raw = read_private(state_dir / RECORD)
    key_pem = _device_key(state_dir)
    try:
        held = json.loads(raw)
        keys = [bytes.fromhex(held[key]) for key in ("server_signing_key", "server_sealing_key")]
        name, link_address = held["name"], held["link_address"]
        if held["format"] != FORMAT or not isinstance(name, str) or not isinstance(link_address, str):
            raise ValueError("another format")
        enrolment = Enrolment(
            name=name,
            identity=Identity.load(state_dir / IDENTITY),
            server=PublicIdentity(*keys),
            link_address=link_address,
            ca_pem=read_private(state_dir / CA_CERTIFICATE),
            certificate_pem=read_private(state_dir / DEVICE_CERTIFICATE),
            private_key_pem=key_pem,
        )
        check_issued(enrolment.certificate_pem, enrolment.ca_pem, public_key_of(key_pem))
    except (ValueError, KeyError, TypeError, RecursionError, FrameError):
        raise StateError(f"the files in {state_dir} are damaged or do not belong together") from None
    return enrolment


def _device_key(state_dir: Path) -> bytes:
    key_pem = read_private(state_dir / DEVICE_KEY)
    try:
        public_key_of(key_pem)
    except (ValueError, TypeError):
        raise StateError(f"{state_dir / DEVICE_KEY} is damaged") from None
    return key_pem
