"""Chunks back into messages: memory grows only as bytes really arrive, whatever a peer claims."""

import io
from dataclasses import dataclass

from fedlite.errors import FrameError
from fedlite.link.frames import Chunk, Drop, Start


@dataclass(frozen=True)
class Whole:
    """A complete message, not yet looked into."""

    message_id: str
    header: bytes
    blobs: tuple[bytes, ...]


class Assembler:
    """Puts one peer's frames together, one message at a time."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._partial: _Partial | None = None

    def feed(self, frame: Start | Chunk | Drop, *, keep: bool = True) -> Whole | None:
        """The message that this frame completes, or None.

        `keep=False` with a start frame: let the message pass by without storing it. Raises FrameError for a
        size over `max_message_bytes`, data beyond the sizes claimed, and frames out of order.
        """
        if isinstance(frame, Start):
            self._begin(frame, keep)
        elif self._partial is None:
            raise FrameError(f"{type(frame).__name__.lower()} frame without a message begun")
        if isinstance(frame, Drop):
            self._partial = None
            return None
        assert self._partial is not None
        self._partial.write(frame.data)
        if self._partial.missing:
            return None
        done, self._partial = self._partial, None
        return done.whole() if done.keep else None

    def _begin(self, start: Start, keep: bool) -> None:
        if self._partial is not None:
            raise FrameError("start frame inside another message")
        if sum(start.sizes) > self._max_message_bytes:
            raise FrameError(
                f"message of {sum(start.sizes)} bytes, at most {self._max_message_bytes} are taken",
                remedy="raise --max-message-bytes on both sides, or send less",
            )
        self._partial = _Partial(start.message_id, start.sizes, keep)


class _Partial:
    """Header and blobs so far. BytesIO.getvalue() hands over its buffer without a copy."""

    def __init__(self, message_id: str, sizes: tuple[int, ...], keep: bool) -> None:
        self.keep = keep
        self.missing = sum(sizes)
        self._message_id = message_id
        self._sizes = sizes
        self._parts = [io.BytesIO()]

    def write(self, data: memoryview) -> None:
        if len(data) > self.missing:
            raise FrameError(f"message has {len(data)} more bytes where {self.missing} were missing")
        self.missing -= len(data)
        while self.keep and len(data):
            part = self._parts[-1]
            room = self._sizes[len(self._parts) - 1] - part.tell()
            part.write(data[:room])
            data = data[room:]
            if len(data):
                self._parts.append(io.BytesIO())

    def whole(self) -> Whole:
        empty = len(self._sizes) - len(self._parts)
        header, *blobs = [part.getvalue() for part in self._parts] + [b""] * empty
        return Whole(self._message_id, header, tuple(blobs))
