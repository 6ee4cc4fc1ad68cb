"""How programs end: exit codes by kind of error, and signals that are heard whatever the main thread does."""

import signal
from collections.abc import Iterator, Sequence
from threading import Event

import pytest

from fedlite.apps.program import main, stopped_by_signals
from fedlite.errors import AccessError, DataError, FedliteError, LinkError, QuorumError, StorageError


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("kind", [AccessError, DataError, LinkError, QuorumError, StorageError])
def test_an_error_is_one_line_and_a_code(
    kind: type[FedliteError], capsys: pytest.CaptureFixture[str]
) -> None:
    def body(argv: Sequence[str], stop: Event) -> int:
        raise kind("it is 3\n\x1b[2J, 4 wanted")

    assert main(body, []) == (2 if kind is DataError else 1)
    assert capsys.readouterr().err == f"error: it is 3??[2J, 4 wanted ({kind.remedy})\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_event_even_while_the_main_thread_holds_its_lock(number: signal.Signals) -> None:
    """`Event.wait` takes that lock now and then; a handler that wanted it too would wait for ever."""
    with stopped_by_signals() as stop:
        with stop._cond:  # type: ignore[attr-defined]
            signal.raise_signal(number)
        assert stop.wait(30)


def test_without_a_signal_nothing_is_set() -> None:
    with stopped_by_signals() as stop:
        pass
    assert not stop.is_set()
