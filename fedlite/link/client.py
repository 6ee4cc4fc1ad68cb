"""A device's end of the link: one stream to the server, made again whenever it breaks.

Messages are handled one at a time in a worker thread while gRPC's own threads keep the connection alive.
Needs neither torch nor an event loop.
"""

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc

from fedlite.errors import FrameError, LinkError, RetryError, SettingsError
from fedlite.link import frames
from fedlite.link.assembler import Assembler
from fedlite.link.credentials import CLIENT_OPTIONS, METHOD, SERVICE, ClientCredentials
from fedlite.link.desk import Desk, Handle
from fedlite.link.diagnosis import check_credentials, diagnose
from fedlite.link.packing import unpack
from fedlite.link.wire import Meter, Socket, connected

MAX_MESSAGE_BYTES = 512 * 1024 * 1024
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 30.0
LOOK_SECONDS = 0.5  # how often a connection is looked at: does the program still run, or want to stop?
FINISH_SECONDS = 5.0

_log = logging.getLogger("fedlite.link")


class LinkClient:
    """Connects to "host:port" and answers each message with `handle(message)`, once.

    A reply is kept until the server acknowledges it and sent again after a reconnect. What `handle` raises
    becomes an error reply. `stop` ends `run` within a second, from any thread or signal handler.
    """

    def __init__(
        self,
        address: str,
        credentials: ClientCredentials,
        handle: Handle,
        *,
        stop: threading.Event,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._address = address
        self._credentials = credentials
        self._handle = handle
        self._stop = stop
        self._max_message_bytes = max_message_bytes
        self._desk = Desk()
        self._meter = Meter()
        self._session: _Session | None = None
        self._finished = False

    def run(self) -> None:
        """Serve until `stop` is set.

        Raises AccessError when the server refuses or revokes this device or is not the server it joined,
        SettingsError for a link version or clock that does not fit, FrameError for bytes that no fedlite
        server sends. Everything else is tried again, logged, after a random delay (full jitter) whose bound
        doubles from 0.5 to 30 s.
        """
        check_credentials(self._credentials)
        worker = threading.Thread(target=self._desk.work, args=(self._handle,), daemon=True)
        watcher = threading.Thread(target=self._watch, daemon=True)
        worker.start()
        watcher.start()
        try:
            self._connect_until_stopped()
        finally:
            self._finished = True
            self._desk.close()
            worker.join(FINISH_SECONDS)

    def _connect_until_stopped(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            self._session = session = _Session(self._desk, self._meter, self._max_message_bytes)
            try:
                session.run(self._address, self._credentials)
            except RetryError as problem:
                if self._stop.is_set():
                    return
                attempt = 0 if session.welcomed else attempt + 1
                delay = back_off_seconds(attempt)
                _log.warning("%s; next try in %.1f s", problem.args[0], delay)
                self._stop.wait(delay)

    def _watch(self) -> None:
        """Break off the connection when the program stops, whatever state it is in."""
        while not self._finished:
            if self._stop.wait(LOOK_SECONDS) and self._session is not None:
                self._session.cancel()
                time.sleep(LOOK_SECONDS / 10)


def back_off_seconds(attempt: int) -> float:
    """A uniform draw from 0 to min(30, 0.5 · 2^attempt) s, so that a fleet does not come back all at once."""
    bound = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(attempt, 16))
    return secrets.SystemRandom().uniform(0.0, bound)


class _Session:
    """One connection."""

    def __init__(self, desk: Desk, meter: Meter, max_message_bytes: int) -> None:
        self._greeted = threading.Event()
        self._desk = desk
        self._meter = meter
        self._assembler = Assembler(max_message_bytes)
        self._server_takes_bytes = 0
        self._over = False
        self._call: Any = None

    @property
    def welcomed(self) -> bool:
        """Whether the server took this device in."""
        return self._greeted.is_set()

    def run(self, address: str, credentials: ClientCredentials) -> None:
        """Until the stream ends; always raises why."""
        port = int(address.rpartition(":")[2])
        others = connected(port)
        channel = grpc.secure_channel(address, credentials.to_grpc(), options=CLIENT_OPTIONS)
        try:
            self._call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(self._outgoing())
            if (first := next(self._call, None)) is not None:
                self._welcome(first)
                with self._meter.following(_only(connected(port) - others)):
                    for frame in self._call:
                        self._receive(frame)
            raise LinkError(f"the server at {address} closed the connection")
        except grpc.RpcError as error:
            raise diagnose(address, error.code(), error.details() or "") from error
        finally:
            self._over = True
            self._desk.wake()
            channel.close()

    def cancel(self) -> None:
        """End `run`, from another thread."""
        if self._call is not None:
            self._call.cancel()

    def _receive(self, frame: bytes) -> None:
        match frames.parse(frame):
            case frames.Ack(message_id):
                self._desk.settle(message_id)
                self._tell()
            case frames.Start() | frames.Chunk() | frames.Drop() as part:
                if (whole := self._assembler.feed(part)) is not None:
                    self._desk.put(unpack(whole.header, whole.blobs), whole.message_id)
            case other:
                raise FrameError(f"{type(other).__name__.lower()} frame from a server in mid-stream")

    def _welcome(self, frame: bytes) -> None:
        if (problem := frames.version_problem(frame, peer="server", here="client")) is not None:
            raise SettingsError(problem, remedy="see the message")
        welcome = frames.parse(frame)
        if not isinstance(welcome, frames.Welcome):
            raise FrameError(f"first frame is a {type(welcome).__name__.lower()}, a welcome expected")
        self._server_takes_bytes = welcome.max_message_bytes
        self._greeted.set()
        _log.info("connected to the server")

    def _tell(self) -> None:
        """What it took on the wire to be done with a message."""
        if (lap := self._meter.lap()) is not None:
            down, up = lap.received, lap.sent
            _log.info("message settled; since the last on the wire: %d bytes down, %d bytes up", down, up)

    def _outgoing(self) -> Iterator[bytes]:
        """What gRPC's sending thread sends: it takes the next frame when the last has left."""
        yield frames.hello(self._desk.held())
        sent: set[str] = set()
        while not self._over:
            found = self._desk.next_reply(sent, LOOK_SECONDS) if self._greeted.wait(LOOK_SECONDS) else None
            if found is None:
                continue
            message_id, packed = found
            if packed.size_bytes > self._server_takes_bytes:
                limit = f"{packed.size_bytes} bytes, the server takes {self._server_takes_bytes}"
                self._desk.refuse(message_id, f"the reply has {limit}")
                continue
            sent = {message_id, *filter(self._desk.holds, sent)}
            for number, frame in enumerate(frames.message(message_id, packed)):
                if number and (self._over or not self._desk.holds(message_id)):
                    yield frames.drop()
                    break
                yield frame


def _only(found: set[Socket]) -> Socket | None:
    """Of several new connections to the server's port none is known to be this session's."""
    return next(iter(found)) if len(found) == 1 else None
