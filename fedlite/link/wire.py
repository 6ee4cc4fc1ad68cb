"""Bytes on the wire: what the kernel counted on this process's own TCP connections, and on nobody else's.

Counted is each byte of the TCP stream, once: TLS handshake and records, HTTP/2 and gRPC frames. Not counted are TCP
and IP headers, and what had to be sent again. The counters are Linux's `struct tcp_info` (linux/tcp.h, since 4.19,
after RFC 4898); elsewhere nothing is counted, and nothing is guessed.
"""

import os
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TypeVar
from urllib.parse import unquote

_DESCRIPTORS = "/proc/self/fd"
_INFO_BYTES = 216  # of tcp_info, up to and with the field read last
_RECEIVED = struct.Struct("=128xQ")
_SENT = struct.Struct("=200xQQ")  # and of those, again

Answer = TypeVar("Answer")
End = tuple[str, int]  # address, without the ::ffff: of an IPv4 one, and port


@dataclass(frozen=True)
class Wire:
    """Bytes at this end of some connections; `missed` more connections could not be counted."""

    received: int = 0
    sent: int = 0
    missed: int = 0

    def __add__(self, other: "Wire") -> "Wire":
        return Wire(self.received + other.received, self.sent + other.sent, self.missed + other.missed)

    def since(self, before: "Wire") -> "Wire | None":
        """What came after `before`; None where a connection was missed, for then it is not known."""
        if self.missed != before.missed:
            return None
        return Wire(self.received - before.received, self.sent - before.sent)


@dataclass(frozen=True)
class Socket:
    """A socket of this process. The inode is its own; the descriptor may be another's once it is closed."""

    descriptor: int
    inode: int

    def read(self) -> Wire | None:
        """What it has carried since it was connected; None once it is closed, or where that is not counted."""
        info = self._ask(lambda mine: mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES))
        if info is None or len(info) < _INFO_BYTES:
            return None
        sent, again = _SENT.unpack_from(info)
        return Wire(_RECEIVED.unpack_from(info)[0], sent - again)

    def ends(self) -> tuple[End, End] | None:
        """(here, there); None unless it is a TCP connection that still stands."""
        return self._ask(lambda mine: (_end(mine.getsockname()), _end(mine.getpeername())))

    def _ask(self, question: Callable[[socket.socket], Answer]) -> Answer | None:
        """The answer of a socket whose owner may close it meanwhile: nothing but reading is done with it."""
        try:
            borrowed = socket.socket(
                socket.AF_INET6, socket.SOCK_STREAM, fileno=self.descriptor
            )  # or AF_INET
        except OSError:
            return None
        try:
            answer = question(borrowed)
            return answer if os.fstat(self.descriptor).st_ino == self.inode else None
        except OSError:
            return None
        finally:
            borrowed.detach()


def find(peer: str, port: int, skip: Collection[int] = ()) -> Socket | None:
    """The connection from `peer`, as gRPC names it ("ipv4:192.0.2.7:4711"), to this process's `port`.

    Descriptors in `skip` are not looked at. None: it is gone already, or this system does not count.
    """
    there = _end_of(peer)
    for each in _sockets(skip):
        ends = each.ends()
        if ends is not None and ends[1] == there and ends[0][1] == port:
            return each if each.read() is not None else None
    return None


def connected(port: int) -> set[Socket]:
    """This process's connections to any host's `port`."""
    return {each for each in _sockets() if (ends := each.ends()) is not None and ends[1][1] == port}


class Meter:
    """All connections with one peer, at once or one after another. Thread-safe."""

    def __init__(self) -> None:
        self._open: dict[Socket, Wire] = {}
        self._past = Wire()
        self._told = Wire()
        self._unseen = 0
        self._lock = threading.Lock()

    @contextmanager
    def following(self, found: Socket | None) -> Iterator[None]:
        """While a connection is used; None: one that could not be found."""
        with self._lock:
            if found is None:
                self._unseen += 1
            else:
                self._open.setdefault(found, Wire())
        try:
            self.read()
            yield
        finally:
            self.read()
            if found is None:
                with self._lock:
                    self._unseen -= 1
                    self._past += Wire(missed=1)

    def read(self) -> Wire | None:
        """Look at every connection; None while one is in use that cannot be counted.

        A closed one counts with what it had when it was last looked at: look often.
        """
        with self._lock:
            total = self._past
            for each, before in list(self._open.items()):
                now = each.read()
                if now is None:
                    del self._open[each]
                    self._past += before
                else:
                    self._open[each] = now
                total += now or before
            return None if self._unseen else total

    def lap(self) -> Wire | None:
        """What came since the last lap; None where that is not known."""
        now = self.read()
        if now is None:
            return None
        before, self._told = self._told, now
        return now.since(before)

    def descriptors(self) -> list[int]:
        """Of the connections that were open when last looked at."""
        with self._lock:
            return [each.descriptor for each in self._open]


def _sockets(skip: Collection[int] = ()) -> Iterator[Socket]:
    """The sockets among this process's descriptors; none where they are not listed."""
    try:
        names = os.listdir(_DESCRIPTORS)
    except OSError:
        return
    for descriptor in map(int, names):
        if descriptor in skip:
            continue
        try:
            inode = os.fstat(descriptor).st_ino
        except OSError:
            continue
        yield Socket(descriptor, inode)


def _end(address: object) -> End:
    """An end as the kernel names it."""
    if not isinstance(address, tuple):
        raise OSError("not an internet socket")
    return _plain(address[0]), address[1]


def _end_of(peer: str) -> End:
    """An end as gRPC names it: ipv4:192.0.2.7:4711, ipv6:[2001:db8::7]:4711, its brackets perhaps as %5B and %5D."""
    host, _, port = unquote(peer.partition(":")[2]).rpartition(":")
    return _plain(host.strip("[]")), int(port) if port.isdecimal() else 0


def _plain(host: str) -> str:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
