"""The server's book of letters: what was sent to whom, and which replies came. Thread-safe, knows no network.

A letter waits for its node, connected or not, until it is replied to, withdrawn, or its time to live passes.
Its reply is counted once; every other one under the same id is dropped.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from fedlite.errors import FrameError
from fedlite.flower import EXPIRED, Message, Metadata, error_reply
from fedlite.link.packing import Packed


class Listener(Protocol):
    """Hears of (node id, message id) that were posted, or closed without a reply."""

    def __call__(self, changes: list[tuple[int, str]], *, closed: bool) -> None:
        """Called outside the lock, from the thread that posts or withdraws."""


def deaf(changes: list[tuple[int, str]], *, closed: bool) -> None:
    """The listener of an exchange without a network."""


@dataclass(eq=False)
class Letter:
    """One message to one node; `deadline` is on the monotonic clock, in seconds."""

    metadata: Metadata
    packed: Packed | None
    deadline: float
    reply: Message | None = None
    closed: bool = False  # answered, withdrawn or expired: not to be sent (on)


@dataclass
class Exchange:
    """Letters by id and by node."""

    listener: Listener = deaf
    dropped_replies: int = 0  # late, withdrawn or duplicate: acknowledged, not counted
    counted_replies: int = 0
    _letters: dict[str, Letter] = field(default_factory=dict)
    _open: dict[int, dict[str, Letter]] = field(default_factory=dict)
    _events: int = 0
    _seen_events: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def post(self, letters: Iterable[tuple[Metadata, Packed]]) -> list[str]:
        """Take letters for delivery; their time to live starts now. Returns the message ids."""
        now = time.monotonic()
        posted = []
        with self._changed:
            for metadata, packed in letters:
                letter = Letter(metadata, packed, now + metadata.ttl)
                self._letters[metadata.message_id] = letter
                self._open.setdefault(metadata.dst_node_id, {})[metadata.message_id] = letter
                posted.append((metadata.dst_node_id, metadata.message_id))
        self.listener(posted, closed=False)
        return [message_id for _, message_id in posted]

    def next(self, node_id: int, known: set[str]) -> tuple[str, Letter] | None:
        """The oldest open letter for a node that is not among `known`."""
        with self._changed:
            for message_id, letter in self._open.get(node_id, {}).items():
                if message_id not in known:
                    return message_id, letter
        return None

    def wants(self, node_id: int, message_id: str) -> bool:
        """Whether this node's reply would count. Raises FrameError when the letter is another node's."""
        with self._changed:
            letter = self._letters.get(message_id)
            if letter is not None and letter.metadata.dst_node_id != node_id:
                raise FrameError("a reply to a message that was sent to another node")
            return letter is not None and not letter.closed

    def settle(self, node_id: int, message_id: str, reply: Message) -> bool:
        """Count a reply, once. False: it was dropped. Raises FrameError when it answers something else."""
        got = reply.metadata
        if (got.reply_to_message_id, got.src_node_id) != (message_id, node_id):
            raise FrameError("a reply whose metadata name another message or sender than the link does")
        with self._changed:
            if not self.wants(node_id, message_id):
                self.dropped_replies += 1
                return False
            letter = self._letters[message_id]
            if got.run_id != letter.metadata.run_id:
                raise FrameError(f"a reply of run {got.run_id}, {letter.metadata.run_id} expected")
            letter.reply = reply
            self.counted_replies += 1
            self._close(message_id, letter)
        return True

    def take(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that came since, each once; an expired letter gives an error reply."""
        with self._changed:
            self._expire()
            taken = []
            for message_id in message_ids:
                letter = self._letters.get(message_id)
                if letter is not None and letter.reply is not None:
                    taken.append(letter.reply)
                    del self._letters[message_id]
            return taken

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Send no more and expect no reply: one that comes anyway is dropped."""
        closed = []
        with self._changed:
            for message_id in message_ids:
                letter = self._letters.pop(message_id, None)
                if letter is not None and not letter.closed:
                    self._close(message_id, letter)
                    closed.append((letter.metadata.dst_node_id, message_id))
        self.listener(closed, closed=True)

    def notify(self) -> None:
        """Something else happened that a waiting program wants to see."""
        with self._changed:
            self._events += 1
            self._changed.notify_all()

    def wait(self, timeout_seconds: float) -> bool:
        """Block until something happened since the last call, at most so long; False: nothing did."""
        with self._changed:
            soon = min((letter.deadline for letter in self._open_letters()), default=float("inf"))
            limit = min(timeout_seconds, max(0.0, soon - time.monotonic()))
            self._changed.wait_for(lambda: self._events != self._seen_events, limit)
            self._expire()
            happened = self._events != self._seen_events
            self._seen_events = self._events
            return happened

    def _open_letters(self) -> Iterable[Letter]:
        return (letter for box in self._open.values() for letter in box.values())

    def _close(self, message_id: str, letter: Letter) -> None:
        letter.closed, letter.packed = True, None
        box = self._open[letter.metadata.dst_node_id]
        del box[message_id]
        if not box:
            del self._open[letter.metadata.dst_node_id]
        self.notify()

    def _expire(self) -> None:
        now = time.monotonic()
        for letter in [letter for letter in self._open_letters() if letter.deadline <= now]:
            letter.reply = error_reply(letter.metadata, EXPIRED, "no reply within the message's time to live")
            self._close(letter.metadata.message_id, letter)
