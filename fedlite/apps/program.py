"""How every program begins and ends: arguments in, exit code out, a signal stops it cleanly."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

from fedlite.errors import FedliteError, SettingsError

OK, FAILED, BAD_SETTINGS = 0, 1, 2


def main(body: Callable[[Sequence[str], Event], int], argv: Sequence[str] | None = None) -> int:
    """Run `body(arguments, stop)`; SIGINT and SIGTERM set `stop`, a second one ends the program at once.

    A FedliteError becomes one line on standard error and an exit code: 2 for settings, 1 for the rest.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines repeat what our errors say better
    with stopped_by_signals() as stop:
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


@contextmanager
def stopped_by_signals() -> Iterator[Event]:
    """An event that SIGINT and SIGTERM set.

    A thread sets it: the handler runs between two steps of the main thread, which may hold the event's lock.
    """
    stop, signals = Event(), (signal.SIGINT, signal.SIGTERM)
    reader, writer = os.pipe()
    listener = Thread(target=_set_when_told, args=(reader, stop), daemon=True)
    listener.start()

    def handle(number: int, frame: object) -> None:
        os.write(writer, b".")
        for each in signals:
            signal.signal(each, signal.SIG_DFL)

    for number in signals:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        os.close(writer)
        listener.join()
        os.close(reader)


def _set_when_told(reader: int, stop: Event) -> None:
    if os.read(reader, 1):
        stop.set()
