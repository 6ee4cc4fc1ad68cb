"""The server's end of the link: one event-loop thread that serves every device's stream over mutual TLS.

Who a device is comes from its certificate alone. Whatever a device sends, only its own stream ends, with a
gRPC status that says why: PERMISSION_DENIED (AccessError), FAILED_PRECONDITION (SettingsError: link version,
a second client with the same certificate), INVALID_ARGUMENT (FrameError), UNAVAILABLE (try again).
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from fedlite.errors import AccessError, FedliteError, FrameError, LinkError, SettingsError
from fedlite.link import frames
from fedlite.link.connection import GRPC_PREFIX_BYTES, Connection, Peer, Traffic
from fedlite.link.credentials import METHOD, SERVER_OPTIONS, SERVICE, ServerCredentials
from fedlite.link.exchange import Exchange
from fedlite.link.memory import keep_large_buffers_apart
from fedlite.link.wire import Meter, Socket, Wire, find

Admit = Callable[[bytes], Peer]

MAX_MESSAGE_BYTES = 512 * 1024 * 1024
HELLO_SECONDS = 10.0
RECHECK_SECONDS = 1.0

_log = logging.getLogger("fedlite.link")


class LinkServer:
    """Listens on "host:port" (port 0: any free one). `admit` maps a certificate (DER) to its peer.

    `admit` raises AccessError for a certificate that is unknown or revoked. It is called from one thread of
    the link's own: when a device connects, and every second for each connected one, so that a revoked device
    is cut off. `max_message_bytes` bounds header and blobs of one message, in either direction.
    """

    def __init__(
        self,
        listen: str,
        credentials: ServerCredentials,
        admit: Admit,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self.exchange = Exchange(listener=self._on_letters)
        self._host, self._port = _split(listen)
        self._credentials = credentials
        self._admit = admit
        self._max_message_bytes = max_message_bytes
        self._connections: dict[int, tuple[Connection, bytes]] = {}
        self._seen: dict[int, Peer] = {}
        self._traffic: dict[int, Traffic] = {}
        self._meters: dict[int, Meter] = {}
        self._bound_port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._grace = 0.0
        self._admission = concurrent.futures.ThreadPoolExecutor(1, "fedlite-admit")

    def start(self) -> str:
        """Begin to listen; returns the bound "host:port". SettingsError when the port is in use."""
        keep_large_buffers_apart()
        ready: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(ready)), name="fedlite-link", daemon=True
        )
        self._thread.start()
        return ready.result()

    def stop(self, grace_seconds: float = 1.0) -> None:
        """Tell the devices to try again later, and end. Letters stay in the exchange."""
        if self._loop is None or self._stopping is None or self._thread is None:
            return
        self._grace = grace_seconds
        self._call_soon(self._stopping.set)
        self._thread.join()
        self._admission.shutdown()
        self._loop = None

    def connected(self) -> dict[int, Peer]:
        """The devices connected now, by node id."""
        return {node_id: connection.peer for node_id, (connection, _) in self._connections.copy().items()}

    def seen(self) -> dict[int, Peer]:
        """Every device that was connected since the start, by node id."""
        return self._seen.copy()

    def traffic(self) -> dict[int, Traffic]:
        """Bytes of frames by node id, over all its connections since the start."""
        return {
            node: Traffic(each.received_bytes, each.sent_bytes) for node, each in self._traffic.copy().items()
        }

    def wire(self) -> dict[int, Wire]:
        """Bytes on the wire by node id, over all its connections since the start; none where they are not known."""
        found = {node: meter.read() for node, meter in self._meters.copy().items()}
        return {node: wire for node, wire in found.items() if wire is not None}

    def weigh(self, node_ids: Iterable[int]) -> dict[int, Wire]:
        """Bytes on the wire of each of these nodes since it was last weighed; none where they are not known."""
        found = {node: meter.lap() for node in node_ids if (meter := self._meters.get(node)) is not None}
        return {node: wire for node, wire in found.items() if wire is not None}

    def recheck(self) -> None:
        """Ask `admit` again about every connected device now, rather than within the next second."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._recheck(), self._loop).result()

    async def _main(self, ready: "concurrent.futures.Future[str]") -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = grpc.aio.server(options=SERVER_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._stream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        try:
            port = server.add_secure_port(f"{self._host}:{self._port}", self._credentials.to_grpc())
            self._bound_port = port
            await server.start()
        except RuntimeError:
            where = f"{self._host}:{self._port}"
            ready.set_exception(
                SettingsError(f"cannot listen on {where}: the port is in use, or the address is not here")
            )
            return
        ready.set_result(f"{self._host}:{port}")
        await self._serve_until_stopped(server, self._stopping)

    async def _serve_until_stopped(self, server: "grpc.aio.Server", stopping: asyncio.Event) -> None:
        poll = asyncio.create_task(self._recheck_forever())
        await stopping.wait()
        poll.cancel()
        for connection, _ in list(self._connections.values()):
            connection.end(LinkError("the server stops"))
        await server.stop(self._grace)
        await asyncio.gather(poll, return_exceptions=True)

    async def _stream(self, _requests: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        name = context.peer()
        try:
            certificate = _certificate(context)
            peer = await self._in_admission(self._admit, certificate)
            name = peer.name
            meter = self._meters.setdefault(peer.node_id, Meter())
            with meter.following(self._find(context)):
                hello = await self._hello(peer, context)
                await self._serve(peer, certificate, hello, context)
            return
        except FedliteError as error:
            _log.info("%s: stream ended: %s", name, error)
            code, details = _status(error), str(error.args[0])
        except Exception:  # a fault of ours or of `admit` costs this stream, not the server
            _log.exception("%s: stream ended by a fault of the server", name)
            code, details = grpc.StatusCode.UNAVAILABLE, "the server had a fault, see its log"
        with contextlib.suppress(grpc.aio.InternalError):  # a device that reads nothing cannot be told why
            await context.abort(code, details)

    def _find(self, context: "grpc.aio.ServicerContext[Any, Any]") -> Socket | None:
        """The socket behind a stream: most likely none that is known, perhaps one with another stream."""
        known = {each for meter in self._meters.values() for each in meter.descriptors()}
        peer, port = context.peer(), self._bound_port
        return find(peer, port, skip=known) or find(peer, port)

    async def _hello(self, peer: Peer, context: "grpc.aio.ServicerContext[Any, Any]") -> frames.Hello:
        try:
            first = await asyncio.wait_for(context.read(), HELLO_SECONDS)
        except TimeoutError:
            raise FrameError(f"no hello within {HELLO_SECONDS} s") from None
        if first is grpc.aio.EOF:
            raise FrameError("stream ended before a hello")
        self._traffic.setdefault(peer.node_id, Traffic()).received_bytes += len(first) + GRPC_PREFIX_BYTES
        if (problem := frames.version_problem(first, peer="client", here="server")) is not None:
            raise SettingsError(problem)
        hello = frames.parse(first)
        if not isinstance(hello, frames.Hello):
            raise FrameError(f"first frame is a {type(hello).__name__.lower()}, a hello expected")
        return hello

    async def _serve(
        self,
        peer: Peer,
        certificate: bytes,
        hello: frames.Hello,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        traffic = self._traffic.setdefault(peer.node_id, Traffic())
        meter = self._meters[peer.node_id]
        connection = Connection(peer, context, self.exchange, traffic, meter, self._max_message_bytes)
        if peer.node_id in self._connections:
            self._connections[peer.node_id][0].end(
                SettingsError(f"another client with the certificate of {peer.name} took over")
            )
        self._connections[peer.node_id] = connection, certificate
        self._seen[peer.node_id] = peer
        self.exchange.notify()
        _log.info("%s connected", peer.name)
        try:
            await connection.run(hello)
        finally:
            if self._connections.get(peer.node_id, (None,))[0] is connection:
                del self._connections[peer.node_id]
                self.exchange.notify()
                _log.info("%s disconnected", peer.name)

    async def _recheck_forever(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            await self._recheck()
            self.wire()

    async def _recheck(self) -> None:
        for connection, error in await self._in_admission(self._refused, list(self._connections.values())):
            connection.end(error)

    def _refused(self, connections: list[tuple[Connection, bytes]]) -> list[tuple[Connection, AccessError]]:
        refused = []
        for connection, certificate in connections:
            try:
                self._admit(certificate)
            except AccessError as error:
                refused.append((connection, error))
            except Exception:
                _log.exception("%s: could not be checked, stays connected", connection.peer.name)
        return refused

    async def _in_admission(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._admission, function, *args)

    def _on_letters(self, changes: list[tuple[int, str]], *, closed: bool) -> None:
        self._call_soon(self._wake, changes, closed)

    def _wake(self, changes: list[tuple[int, str]], closed: bool) -> None:
        for node_id, message_id in changes:
            if node_id in self._connections:
                self._connections[node_id][0].wake(message_id, closed=closed)

    def _call_soon(self, function: Callable[..., None], *args: Any) -> None:
        """On the event loop, if there is one: without it there are no connections to tell."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(function, *args)


def _split(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise SettingsError(f"address {listen!r} is not host:port")
    return host, int(port)


def _certificate(context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
    """The peer's certificate, DER; TLS has checked that it is of our authority and that the peer has its key."""
    found = context.auth_context().get("x509_pem_cert")
    if not found:
        raise AccessError("no client certificate")
    return ssl.PEM_cert_to_DER_cert(found[0].decode())


def _status(error: FedliteError) -> grpc.StatusCode:
    if isinstance(error, AccessError):
        return grpc.StatusCode.PERMISSION_DENIED
    if isinstance(error, SettingsError):
        return grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, FrameError):
        return grpc.StatusCode.INVALID_ARGUMENT
    return grpc.StatusCode.UNAVAILABLE
