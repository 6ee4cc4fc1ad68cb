"""Bytes on the wire as the kernel counts them, against a relay in between that counts what it passes on."""

import re
import socket

import pytest

from fedlite.crypto.certificates import Authority
from fedlite.flower import ConfigRecord, Message, RecordDict
from fedlite.link.wire import Meter, Socket, Wire, connected, find
from tests.link.proxy import Proxy
from tests.link.world import Fleet, Running, device, echo

CLOSING_BYTES = (
    300  # of the last words on a connection: half of it HTTP/2's, half of it TLS's, and little to see
)
HANDSHAKE_BYTES = 1000  # at least, each way: a certificate is sent, encrypted, by both


def instruct(nodes: list[int], size: int) -> list[Message]:
    content = RecordDict({"c": ConfigRecord({"data": bytes(size)})})
    return [Message(content, dst_node_id=node, message_type="train") for node in nodes]


def short(message: Message) -> Message:
    """An answer of 10 kB, whatever was asked."""
    return Message(RecordDict({"c": ConfigRecord({"data": bytes(10_000)})}), reply_to=message)


def carried(proxy: Proxy) -> Wire:
    return Wire(received=proxy.up, sent=proxy.down)


def test_the_kernels_figures_are_what_was_sent_and_received_by_hand() -> None:
    """100 000 bytes one way and 77 the other; nothing else is on a bare connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        before = connected(port)
        with socket.create_connection(("127.0.0.1", port)) as near:
            far, (host, its_port) = listener.accept()
            with far:
                found = find(f"ipv4:{host}:{its_port}", port)
                assert found is not None
                near.sendall(bytes(100_000))
                far.sendall(bytes(77))
                assert far.recv(100_000, socket.MSG_WAITALL) == bytes(100_000)
                assert near.recv(77, socket.MSG_WAITALL) == bytes(77)
                assert found.read() == Wire(received=100_000, sent=77)
                [mine] = connected(port) - before
                assert mine.read() == Wire(received=77, sent=100_000)
                assert find(f"ipv4:{host}:{its_port}", port, skip=[found.descriptor]) is None
            assert found.read() is None
    assert find(f"ipv4:{host}:{its_port}", port) is None


@pytest.mark.parametrize("name", ["ipv6:[::1]:{}", "ipv6:%5B::1%5D:{}"])
def test_addresses_of_the_sixth_version_are_found(name: str) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("::1", port)) as near, listener.accept()[0] as far:
            found = find(name.format(near.getsockname()[1]), port)
            assert found is not None
            assert found.descriptor == far.fileno()


def test_an_old_address_on_a_socket_of_the_sixth_version_is_found() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as near, listener.accept()[0] as far:
            found = find(f"ipv4:127.0.0.1:{near.getsockname()[1]}", port)
            assert found is not None
            assert found.descriptor == far.fileno()


@pytest.mark.parametrize("name", ["", "unix:", "unix:/tmp/x", "ipv4:127.0.0.1", "ipv4:nowhere:x", "[::1]:5"])
def test_a_peer_that_has_no_address_is_not_found(name: str) -> None:
    assert find(name, 0) is None


def test_another_socket_under_the_same_number_is_not_taken_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        near = socket.create_connection(("127.0.0.1", port))
        [old] = connected(port)
        meter = Meter()
        near.sendall(bytes(500))
        with meter.following(old):
            near.close()
            again = socket.create_connection(("127.0.0.1", port))
            with again:
                assert again.fileno() == old.descriptor  # the lowest free number
                again.sendall(bytes(7))
                assert old.read() is None
                assert meter.read() == Wire(sent=500)


def test_what_was_missed_is_not_guessed() -> None:
    """While a connection is used that could not be found nothing is known, and of the span it was in, either."""
    meter = Meter()
    assert meter.lap() == Wire()
    with meter.following(None):
        assert meter.read() is None
        assert meter.lap() is None
    assert meter.read() == Wire(missed=1)
    assert meter.lap() is None
    assert meter.lap() == Wire()
    with meter.following(Socket(10**6, 1)):
        assert meter.lap() == Wire()


def test_each_devices_bytes_are_what_a_relay_passed_on(authority: Authority) -> None:
    """Three devices are sent 0, 1 and 3 MB over TLS; to the byte, once nothing is in flight."""
    sizes = (0, 1_000_000, 3_000_000)
    with Fleet(authority) as fleet:
        proxies = [Proxy(fleet.address) for _ in sizes]
        nodes: list[int] = []
        for number, proxy in enumerate(proxies):
            fleet.clients.append(Running(proxy.address, device(authority, f"weighed-{number}"), short))
            fleet.wait_for(lambda number=number: len(fleet.grid.get_node_ids()) > number)
            nodes += set(fleet.grid.get_node_ids()) - set(nodes)
        for node, proxy in zip(nodes, proxies, strict=True):
            fleet.wait_for(lambda node=node, proxy=proxy: fleet.server.wire()[node] == carried(proxy))
        hello = fleet.grid.weigh(nodes)
        assert all(min(hello[node].sent, hello[node].received) > HANDSHAKE_BYTES for node in nodes)
        for node, size in zip(nodes, sizes, strict=True):
            [reply] = fleet.grid.send_and_receive(instruct([node], size), timeout=60.0)
            assert reply.has_content()
        for node, proxy, size in zip(nodes, proxies, sizes, strict=True):
            fleet.wait_for(lambda node=node, proxy=proxy: fleet.server.wire()[node] == carried(proxy))
            lap = fleet.grid.weigh([node])[node]
            assert hello[node] + lap == carried(proxy)
            assert size < lap.sent < 1.01 * size + 5000  # TLS, HTTP/2 and the message's own header
            assert 10_000 < lap.received < 20_000  # flow control, too
        for proxy in proxies:
            proxy.close()


def test_a_device_that_comes_back_keeps_its_count(authority: Authority) -> None:
    with Fleet(authority) as fleet:
        proxy = Proxy(fleet.address)
        fleet.clients.append(Running(proxy.address, device(authority, "often"), echo))
        fleet.wait_for(fleet.grid.get_node_ids)
        [node] = fleet.grid.get_node_ids()
        for number in range(1, 4):
            fleet.grid.send_and_receive(instruct([node], 300_000), timeout=60.0)
            fleet.wait_for(lambda: near(fleet.server.wire()[node], carried(proxy), CLOSING_BYTES))
            assert fleet.server.wire()[node].sent > 300_000 * number
            again = proxy.up + HANDSHAKE_BYTES
            proxy.cut()
            fleet.wait_for(lambda again=again: proxy.up > again and fleet.grid.get_node_ids() == [node])
        assert min(proxy.up, proxy.down) > 3 * 300_000 + 4 * HANDSHAKE_BYTES
        fleet.wait_for(lambda: near(fleet.server.wire()[node], carried(proxy), 4 * CLOSING_BYTES))
        proxy.close()


def near(got: Wire, want: Wire, bytes_off: int) -> bool:
    return max(abs(got.sent - want.sent), abs(got.received - want.received)) <= bytes_off


def test_a_device_says_what_it_took_on_the_wire(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own lines add up to what the relay passed on, but for what the acknowledgement of the last set off."""
    caplog.set_level("INFO", "fedlite.link")
    with Fleet(authority) as fleet:
        proxy = Proxy(fleet.address)
        fleet.clients.append(Running(proxy.address, device(authority, "talkative"), short))
        fleet.wait_for(fleet.grid.get_node_ids)
        for told in range(2):
            fleet.grid.send_and_receive(instruct(fleet.grid.get_node_ids(), 200_000), timeout=60.0)
            fleet.wait_for(lambda told=told: len(lines(caplog.messages)) > told)
        first, second = lines(caplog.messages)
        assert near(first + second, carried(proxy), CLOSING_BYTES)
        assert HANDSHAKE_BYTES < first.sent - second.sent < 5 * HANDSHAKE_BYTES
        proxy.close()


def lines(messages: list[str]) -> list[Wire]:
    """The spans a device told of, with down and up as the server says sent and received."""
    found = (re.search(r"on the wire: (\d+) bytes down, (\d+) bytes up", text) for text in messages)
    return [Wire(received=int(each[2]), sent=int(each[1])) for each in found if each]
