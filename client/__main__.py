"""Run a device: enrol it once, then let it take part.

    python -m client join CODE --state-dir run/pi                    make this device's keys, enrol with a join code
    python -m client --device cpu --state-dir run/pi --data digits:0/3
    python -m client --device cpu --state-dir run/pi --watch incoming/

The device waits for the server, survives its restarts, and remembers across power cuts what it has sent.
Its keys and its samples never leave it.
"""

import sys
from collections.abc import Sequence
from threading import Event

from client.config import Config, JoinConfig
from fedlite.apps.program import OK, main
from fedlite.config import parse
from fedlite.errors import SettingsError


def body(argv: Sequence[str], stop: Event) -> int:
    """Enrol, or take part."""
    if argv and argv[0] == "join":
        return _join(list(argv[1:]))
    config = parse(Config, argv, prog="python -m client", description=__doc__ or "")
    from client.run import take_part

    take_part(config, stop)
    return OK


def _join(argv: list[str]) -> int:
    if not argv or (argv[0].startswith("-") and "--help" not in argv):
        raise SettingsError("python -m client join wants a join code", remedy="join CODE")
    code, rest = (argv[0], argv[1:]) if argv[0] != "--help" else ("", argv)
    config = parse(JoinConfig, rest, prog="python -m client join CODE", description="Enrol this device.")
    from fedlite.link.enrol import join

    enrolment = join(code, config.state_dir)
    print(
        f"joined as {enrolment.name}; server {enrolment.link_address}, key {enrolment.identity.public.client_id}"
    )
    return OK


if __name__ == "__main__":
    sys.exit(main(body))
