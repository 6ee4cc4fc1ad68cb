"""The server's state directory: what lies where, and how it is opened."""

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from fedlite.crypto.certificates import CA_FILE, Authority, create_authority, load_authority
from fedlite.crypto.files import private_dir, write_private
from fedlite.crypto.identity import Identity
from fedlite.errors import StateError
from fedlite.ledger.fleet import Fleet

IDENTITY_FILE, FLEET_FILE, LEDGER_FILE, ADDRESS_FILE = "identity.key", "fleet.db", "ledger.db", "address.json"

MADE = (CA_FILE, IDENTITY_FILE, FLEET_FILE, LEDGER_FILE)  # in this order, each once


@dataclass(frozen=True)
class Addresses:
    """Where the server was last reached: host:port of the link and of enrolment."""

    link: str
    join: str


def open_authority(state_dir: Path, hosts: tuple[str, ...] = ()) -> tuple[Authority, Identity]:
    """The certificates and the server's own keys; made on first use."""
    private_dir(state_dir)
    _check_whole(state_dir)
    if not (state_dir / CA_FILE).exists():
        create_authority(state_dir, hosts)
    if not (state_dir / IDENTITY_FILE).exists():
        Identity.generate().save(state_dir / IDENTITY_FILE)
    return load_authority(state_dir), Identity.load(state_dir / IDENTITY_FILE)


def _check_whole(state_dir: Path) -> None:
    """StateError when a file is missing that was made before one that is there: devices would be locked out."""
    for place, name in enumerate(MADE):
        later = [other for other in MADE[place + 1 :] if (state_dir / other).exists()]
        if later and not (state_dir / name).exists():
            raise StateError(f"{state_dir} holds {later[0]}, but {name} is missing")


def open_fleet(state_dir: Path) -> Fleet:
    """The devices that may connect. StateError where no server has been started or has invited."""
    if not (state_dir / CA_FILE).exists():
        raise StateError(
            f"{state_dir} is not a server's state directory", remedy="start the server there first"
        )
    return Fleet(state_dir / FLEET_FILE)


def save_addresses(state_dir: Path, addresses: Addresses) -> None:
    """Remember them for `invite`."""
    write_private(state_dir / ADDRESS_FILE, json.dumps(asdict(addresses)).encode(), replace=True)


def load_addresses(state_dir: Path) -> Addresses | None:
    """The last remembered, or None before the first start."""
    path = state_dir / ADDRESS_FILE
    try:
        return Addresses(**json.loads(path.read_text())) if path.exists() else None
    except (ValueError, TypeError) as error:
        raise StateError(
            f"{path} is damaged: {error}", remedy="remove it and start the server again"
        ) from error


def reachable(bound: str, advertise: str) -> str:
    """host:port as a device can use it: `advertise`, or this machine's name where the server listens everywhere."""
    host, _, port = bound.rpartition(":")
    if advertise:
        return f"{advertise}:{port}"
    return f"{socket.gethostname()}:{port}" if host in ("0.0.0.0", "[::]", "") else bound
