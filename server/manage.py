"""The commands beside serving: who may join, who may not any more. They work while the server runs."""

import re
import time

from fedlite.crypto.invite import make_code
from fedlite.errors import SettingsError
from fedlite.ledger.fleet import Fleet
from server.config import FleetConfig, InviteConfig
from server.state import FLEET_FILE, load_addresses, open_authority, open_fleet, reachable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def invite(name: str, config: InviteConfig, now: float) -> str:
    """A join code for a device called `name`, good once and until it expires."""
    if not _NAME.fullmatch(name):
        raise SettingsError(f"device name {name!r} is not letters, digits, '.', '_' and '-', 63 at most")
    if not config.minutes > 0:
        raise SettingsError(f"--minutes is {config.minutes}, above 0 wanted")
    authority, _ = open_authority(config.state_dir, (config.advertise,) if config.advertise else ())
    known = load_addresses(config.state_dir)
    address = known.join if known is not None else reachable(f"0.0.0.0:{config.join_port}", "")
    if config.advertise:
        address = reachable(address, config.advertise)
    code, secret_hash = make_code(address, authority.server_pem)
    with Fleet(config.state_dir / FLEET_FILE) as fleet:
        fleet.invite(name, secret_hash, now + 60 * config.minutes)
    return code


def revoke(name: str, config: FleetConfig) -> str:
    """Shut a device out: a running server cuts it off within a second."""
    with open_fleet(config.state_dir) as fleet:
        device = fleet.revoke(name)
    return f"revoked {device.name} ({device.key_id})"


def devices(config: FleetConfig) -> str:
    """The devices as a table."""
    with open_fleet(config.state_dir) as fleet:
        rows = [(d.name, d.status, _day(d.joined_at), d.key_id) for d in fleet.devices()]
    lines = [("name", "status", "joined", "key id"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
