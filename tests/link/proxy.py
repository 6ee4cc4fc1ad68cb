"""A TCP proxy that counts what it carries, and whose connections can be cut."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Proxy:
    """Listens on a free port; `target` may change between connections. `up` and `down` are bytes passed on."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.up = self.down = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break every connection that is open now."""
        for pair in self._pairs.copy():
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10.0)
        for pair in self._pairs:
            for each in pair:
                each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    host, _, port = self.target.rpartition(":")
                    far = socket.create_connection((host, int(port)))
                except OSError:
                    near.close()
                    continue
                self._pairs.append((near, far))
                for pump in (self._pump_up, self._pump_down):
                    thread = threading.Thread(target=pump, args=(near, far), daemon=True)
                    thread.start()
                    self._threads.append(thread)

    def _pump_up(self, near: socket.socket, far: socket.socket) -> None:
        for size in pump(near, far):
            self.up += size

    def _pump_down(self, near: socket.socket, far: socket.socket) -> None:
        for size in pump(far, near):
            self.down += size


def pump(source: socket.socket, sink: socket.socket) -> Iterator[int]:
    """The sizes of the pieces passed on, until either end is closed."""
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
            yield len(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
