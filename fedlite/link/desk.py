"""A device's desk: messages to handle one at a time, and replies kept until the server acknowledges them.

It outlives connections: what is on it is neither fetched nor computed again after a reconnect.
"""

import logging
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedlite.errors import FedliteError, FrameError
from fedlite.flower import APP_FAILED, Message, Metadata, error_reply
from fedlite.link.packing import Packed, pack

Handle = Callable[[Message], Message]

MAX_REMEMBERED = 1024
_log = logging.getLogger("fedlite.link")


@dataclass(eq=False)
class _Sheet:
    """One message: to handle while `request` is there, being handled while there is neither."""

    metadata: Metadata
    request: Message | None
    reply: Packed | None = None


class Desk:
    """Thread-safe; `work` runs in the worker's thread, the rest in the link's."""

    def __init__(self) -> None:
        self._sheets: OrderedDict[str, _Sheet] = OrderedDict()
        self._settled: OrderedDict[str, None] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, message: Message, message_id: str) -> None:
        """Take a message, unless it is here already or was settled before."""
        if message.metadata.message_id != message_id:
            raise FrameError("a message whose metadata name another id than the link does")
        with self._changed:
            if message_id not in self._sheets and message_id not in self._settled:
                self._sheets[message_id] = _Sheet(message.metadata, message)
                self._changed.notify_all()

    def held(self) -> list[str]:
        """Ids of all messages here, answered or not."""
        with self._changed:
            return list(self._sheets)

    def holds(self, message_id: str) -> bool:
        """Whether the server still wants something about this message."""
        return message_id in self._sheets

    def settle(self, message_id: str) -> None:
        """The server needs nothing more: forget message and reply, and do not begin on it."""
        with self._changed:
            if self._sheets.pop(message_id, None) is not None:
                self._settled[message_id] = None
                while len(self._settled) > MAX_REMEMBERED:
                    self._settled.popitem(last=False)

    def next_reply(self, sent: Iterable[str], timeout_seconds: float) -> tuple[str, Packed] | None:
        """A reply that is not among `sent`; waits for one at most so long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._find_reply(sent), timeout_seconds)

    def refuse(self, message_id: str, reason: str) -> None:
        """Replace a reply that cannot travel by one that says so."""
        with self._changed:
            if (sheet := self._sheets.get(message_id)) is not None:
                sheet.reply = pack(error_reply(sheet.metadata, APP_FAILED, reason))

    def wake(self) -> None:
        """Let `next_reply` look again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let `work` end after the message in hand."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def work(self, handle: Handle) -> None:
        """Handle messages in the order they came, until closed. Never raises: a failure is a reply."""
        while True:
            with self._changed:
                found = self._changed.wait_for(lambda: self._closed or self._find_request())
                if not isinstance(found, _Sheet):
                    return
                request, found.request = found.request, None
            assert request is not None
            reply = _answer(handle, request)
            del request  # the model it carries need not wait for the acknowledgement
            with self._changed:
                found.reply = reply
                self._changed.notify_all()

    def _find_reply(self, sent: Iterable[str]) -> tuple[str, Packed] | None:
        for message_id, sheet in self._sheets.items():
            if sheet.reply is not None and message_id not in sent:
                return message_id, sheet.reply
        return None

    def _find_request(self) -> _Sheet | None:
        return next((sheet for sheet in self._sheets.values() if sheet.request is not None), None)


def _answer(handle: Handle, request: Message) -> Packed:
    metadata = request.metadata
    try:
        reply = handle(request)
        got = reply.metadata
        if (got.reply_to_message_id, got.src_node_id) != (metadata.message_id, metadata.dst_node_id):
            raise ValueError("the app's message is not a reply to what it was given")
        return pack(reply)
    except FedliteError as problem:
        _log.warning("%s", problem)
        return pack(error_reply(metadata, APP_FAILED, _reason(problem)))
    except Exception as problem:
        _log.exception("a %s message failed", metadata.message_type)
        return pack(error_reply(metadata, APP_FAILED, _reason(problem)))


def _reason(problem: Exception) -> str:
    """What the server may know: fedlite's own messages are made for that, others can hold samples."""
    name = type(problem).__name__
    if isinstance(problem, FedliteError):
        return f"{name}: {problem.args[0]}"[:500]
    frame = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{name} in {frame.name}, line {frame.lineno}; the device's log says more"
