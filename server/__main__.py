"""Run the federated server, or manage the devices that may join it.

    python -m server --state-dir run/server                          serve: print the address, run the rounds
    python -m server invite kitchen-pi --state-dir run/server        print a single-use join code for a device
    python -m server revoke kitchen-pi --state-dir run/server        shut a device out, at once
    python -m server devices --state-dir run/server                  list the devices

On the first start the server makes its own certificate authority and keys in --state-dir. Start it again with
the same --state-dir after a stop, a crash or a power cut: it goes on with the same round.
"""

import sys
import time
from collections.abc import Sequence
from threading import Event

from fedlite.apps.program import OK, main
from fedlite.config import parse
from fedlite.errors import SettingsError
from server.config import Config, FleetConfig, InviteConfig

COMMANDS = ("invite", "revoke", "devices")


def body(argv: Sequence[str], stop: Event) -> int:
    """Serve, or one of the commands."""
    if argv and argv[0] in COMMANDS:
        return _command(argv[0], list(argv[1:]))
    config = parse(Config, argv, prog="python -m server", description=__doc__ or "")
    from server.serve import serve

    folder = serve(config, stop)
    print(f"results: {folder / 'report.html'}")
    return OK


def _command(command: str, argv: list[str]) -> int:
    from server import manage

    if command == "devices":
        config = parse(FleetConfig, argv, prog="python -m server devices", description="List the devices.")
        print(manage.devices(config))
        return OK
    if "--help" not in argv and (not argv or argv[0].startswith("-")):
        raise SettingsError(f"python -m server {command} wants the device's name", remedy=f"{command} NAME")
    name, rest = (argv[0], argv[1:]) if argv[0] != "--help" else ("", argv)
    if command == "invite":
        invite = parse(
            InviteConfig,
            rest,
            prog="python -m server invite NAME",
            description="Print a single-use join code.",
        )
        print(manage.invite(name, invite, time.time()))
    else:
        config = parse(
            FleetConfig, rest, prog="python -m server revoke NAME", description="Shut a device out."
        )
        print(manage.revoke(name, config))
    return OK


if __name__ == "__main__":
    sys.exit(main(body))
