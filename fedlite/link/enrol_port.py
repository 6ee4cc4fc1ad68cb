"""The join port: TLS connections, each in a thread, within limits on how many at once and on failures per address."""

import contextlib
import logging
import socket
import socketserver
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

MAX_ADDRESSES = 1024

_log = logging.getLogger("fedlite.link.enrol")


class Door:
    """At most `max_connections` at a time, and `max_failures` within a minute from one address."""

    def __init__(
        self, max_connections: int = 16, max_failures: int = 20, window_seconds: float = 60.0
    ) -> None:
        self._free = max_connections
        self._max_failures = max_failures
        self._window_seconds = window_seconds
        self._failures: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def enter(self, host: str) -> bool:
        """Whether a connection from `host` is let in; if so, `leave` follows."""
        with self._lock:
            recent = self._failures.get(host, ())
            since = time.monotonic() - self._window_seconds
            if self._free <= 0 or sum(when > since for when in recent) >= self._max_failures:
                return False
            self._free -= 1
            return True

    def leave(self) -> None:
        """A connection has ended."""
        with self._lock:
            self._free += 1

    def failed(self, host: str) -> None:
        """Remember a failed attempt; the address that failed longest ago is forgotten when there are too many."""
        with self._lock:
            times = self._failures.pop(host, deque(maxlen=self._max_failures))
            times.append(time.monotonic())
            self._failures[host] = times  # at the end of the dictionary: the latest to fail
            while len(self._failures) > MAX_ADDRESSES:
                del self._failures[next(iter(self._failures))]


class Listener(socketserver.ThreadingTCPServer):
    """Calls `serve(socket, host)` in a thread per connection; the handshake is left to it, so none can block."""

    allow_reuse_address = True
    daemon_threads = False  # so that server_close waits for them
    block_on_close = True

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        door: Door,
        serve: Callable[[ssl.SSLSocket, str], None],
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._context = context
        self._door = door
        self._serve = serve
        self._open: set[ssl.SSLSocket] = set()
        self._lock = threading.Lock()
        super().__init__(address, socketserver.BaseRequestHandler)

    def get_request(self) -> tuple[ssl.SSLSocket, Any]:
        """Accept; an OSError here drops the connection and nothing else."""
        sock, address = self.socket.accept()
        try:
            wrapped = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            sock.close()
            raise OSError(str(error)) from None
        return wrapped, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more, and for this address."""
        entered = self._door.enter(client_address[0])
        if not entered:
            _log.warning("join from %s turned away: too many connections or failures", client_address[0])
        return entered

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread, knowing the connection from before it runs."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection and close it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.discard(request)
            self._door.leave()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """What a thread does."""
        self._serve(request, client_address[0])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A mistake of ours, not of the peer's: keep it for the log, keep listening."""
        _log.exception("join from %s failed", client_address[0])

    def close_connections(self) -> None:
        """End what is open; the threads find out at their next read."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
