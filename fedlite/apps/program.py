"""How every program begins and ends: arguments in, exit code out, a signal stops it cleanly."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from threading import Event

from fedlite.errors import FedliteError, SettingsError

OK, FAILED, BAD_SETTINGS = 0, 1, 2


def main(body: Callable[[Sequence[str], Event], int], argv: Sequence[str] | None = None) -> int:
    """Run `body(arguments, stop)`; SIGINT and SIGTERM set `stop`, a second one ends the program at once.

    A FedliteError becomes one line on standard error and an exit code: 2 for settings, 1 for the rest.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines repeat what our errors say better
    stop = Event()
    _stop_on_signals(stop)
    try:
        return body(sys.argv[1:] if argv is None else argv, stop)
    except SettingsError as error:
        return _failed(error, BAD_SETTINGS)
    except FedliteError as error:
        return _failed(error, FAILED)


def _failed(error: FedliteError, code: int) -> int:
    text = "".join(each if each.isprintable() else "?" for each in str(error))  # some of it may be a peer's
    print(f"error: {text}", file=sys.stderr)
    return code


def _stop_on_signals(stop: Event) -> None:
    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
