"""One device's stream, seen from the server: reads replies, writes letters and acks, ends with a typed error."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

import grpc

from fedlite.errors import FedliteError, FrameError
from fedlite.link import frames
from fedlite.link.assembler import Assembler
from fedlite.link.exchange import Exchange, Letter
from fedlite.link.packing import unpack
from fedlite.link.wire import Meter

MAX_CONTROL_FRAMES = 256  # a device that does not read its acks is not read from either
LAST_WRITE_SECONDS = 2.0
GRPC_PREFIX_BYTES = 5


@dataclass(frozen=True)
class Peer:
    """Who a certificate belongs to."""

    node_id: int
    name: str
    client_id: str


@dataclass
class Traffic:
    """Bytes of one node's frames with their gRPC prefix, since the server started; for TLS and HTTP/2 see wire."""

    received_bytes: int = 0
    sent_bytes: int = 0


class Connection:
    """Lives on the server's event loop; `end` and `wake` are called there too."""

    def __init__(
        self,
        peer: Peer,
        context: "grpc.aio.ServicerContext[Any, Any]",
        exchange: Exchange,
        traffic: Traffic,
        meter: Meter,
        max_message_bytes: int,
    ) -> None:
        self.peer = peer
        self._context = context
        self._exchange = exchange
        self._traffic = traffic
        self._meter = meter
        self._assembler = Assembler(max_message_bytes)
        self._control = deque([frames.welcome(max_message_bytes)])
        self._sent: set[str] = set()  # open letters that the device has, or is being sent
        self._closing = False
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, hello: frames.Hello) -> None:
        """Serve until the device leaves; raises the error that ended the stream otherwise."""
        for message_id in hello.held:
            if self._exchange.wants(self.peer.node_id, message_id):
                self._sent.add(message_id)
            else:
                self._control.append(frames.ack(message_id))
        reading, writing = asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())
        tasks = (reading, writing, self._ended)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self._closing = True
            self._wake.set()
            await asyncio.wait([writing], timeout=LAST_WRITE_SECONDS)  # no status can follow half a write
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def end(self, error: FedliteError) -> None:
        """Cut this device off; it is told why."""
        if not self._ended.done():
            self._ended.set_exception(error)

    def wake(self, message_id: str, *, closed: bool) -> None:
        """A letter for this node was posted, or closed without its reply."""
        if closed and message_id in self._sent:
            self._acknowledge(message_id)
        self._wake.set()

    async def _read(self) -> None:
        while (frame := await self._context.read()) is not grpc.aio.EOF:
            self._traffic.received_bytes += len(frame) + GRPC_PREFIX_BYTES
            self._meter.read()
            self._receive(frames.parse(frame))
            del frame  # while this waits for the next, nothing here holds the last
            while len(self._control) > MAX_CONTROL_FRAMES:
                self._drained.clear()
                await self._drained.wait()

    def _receive(self, frame: frames.Frame) -> None:
        wanted = True
        if isinstance(frame, frames.Start):
            wanted = self._exchange.wants(self.peer.node_id, frame.message_id)
            if not wanted:
                self._exchange.dropped_replies += 1
                self._acknowledge(frame.message_id)
        elif not isinstance(frame, frames.Chunk | frames.Drop):
            raise FrameError(f"{type(frame).__name__.lower()} frame from a client that said hello before")
        if (whole := self._assembler.feed(frame, keep=wanted)) is not None:
            self._exchange.settle(self.peer.node_id, whole.message_id, unpack(whole.header, whole.blobs))
            self._acknowledge(whole.message_id)

    def _acknowledge(self, message_id: str) -> None:
        self._sent.discard(message_id)
        self._control.append(frames.ack(message_id))
        self._wake.set()

    async def _write(self) -> None:
        while not self._closing:
            self._wake.clear()
            await self._write_control()
            found = self._exchange.next(self.peer.node_id, self._sent)
            if found is None:
                await self._wake.wait()
                continue
            self._sent.add(found[0])
            await self._write_letter(*found)
            del found  # while this waits for the next letter, the last one's model is free to go

    async def _write_letter(self, message_id: str, letter: Letter) -> None:
        if (packed := letter.packed) is None:
            return
        for number, frame in enumerate(frames.message(message_id, packed)):
            if self._closing:
                return
            if number and letter.closed:
                await self._put(frames.drop())
                return
            await self._put(frame)
            await self._write_control()

    async def _write_control(self) -> None:
        while self._control and not self._closing:
            await self._put(self._control.popleft())
        self._drained.set()

    async def _put(self, frame: bytes) -> None:
        self._traffic.sent_bytes += len(frame) + GRPC_PREFIX_BYTES
        await self._context.write(frame)
        self._meter.read()
