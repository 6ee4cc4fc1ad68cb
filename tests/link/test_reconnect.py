"""Connections break, processes die, servers start again: each reply is counted once."""

import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from fedlite.crypto.certificates import Authority
from fedlite.flower import ArrayRecord, ConfigRecord, Message, RecordDict
from fedlite.link.client import MAX_DELAY_SECONDS, back_off_seconds
from tests.link.proxy import Proxy
from tests.link.world import Fleet, Running, device, echo


def instruct(node_ids: list[int], round_num: int, size: int = 0) -> list[Message]:
    content = RecordDict({"c": ConfigRecord({"round": round_num, "data": bytes(size)})})
    return [Message(content, dst_node_id=node, message_type="train") for node in node_ids]


class Counting:
    """An echo that notes which messages it handled."""

    def __init__(self) -> None:
        self.handled: Counter[str] = Counter()

    def __call__(self, message: Message) -> Message:
        self.handled[message.metadata.message_id] += 1
        return echo(message)


def test_every_reply_counts_once_while_connections_are_cut(authority: Authority) -> None:
    """20 rounds of 3 devices; random cuts while 300 kB messages travel in both directions."""
    rng, handlers = random.Random(5), [Counting() for _ in range(3)]
    with Fleet(authority) as fleet:
        proxies = [Proxy(fleet.address) for _ in handlers]
        for number, (proxy, handler) in enumerate(zip(proxies, handlers, strict=True)):
            fleet.clients.append(Running(proxy.address, device(authority, f"cut-{number}"), handler))
        fleet.wait_for(lambda: len(fleet.grid.get_node_ids()) == 3)
        nodes, counted = fleet.grid.get_node_ids(), Counter[str]()
        for round_num in range(20):
            missing = set(fleet.grid.push_messages(instruct(nodes, round_num, size=300_000)))
            cuts = rng.randrange(3)
            while missing:
                if cuts:
                    rng.choice(proxies).cut()
                    cuts -= 1
                for reply in fleet.grid.pull_messages(missing):
                    assert reply.content["c"]["round"] == round_num
                    counted[reply.metadata.reply_to_message_id] += 1
                    missing.discard(reply.metadata.reply_to_message_id)
                fleet.grid.wait(0.02)
        assert len(counted) == 60
        assert set(counted.values()) == {1}
        assert fleet.server.exchange.counted_replies == 60
        handled = sum((handler.handled for handler in handlers), Counter[str]())
        assert set(handled) == set(counted)
        assert set(handled.values()) == {1}  # nothing is computed twice because a connection broke
        for proxy in proxies:
            proxy.close()


def test_a_reply_made_while_disconnected_is_sent_after_the_reconnect(authority: Authority) -> None:
    begun, go_on = threading.Event(), threading.Event()
    counting = Counting()

    def slow(message: Message) -> Message:
        begun.set()
        assert go_on.wait(60.0)
        return counting(message)

    with Fleet(authority) as fleet:
        proxy = Proxy(fleet.address)
        fleet.clients.append(Running(proxy.address, device(authority, "slow"), slow))
        fleet.wait_for(fleet.grid.get_node_ids)
        [node] = fleet.grid.get_node_ids()
        [message_id] = fleet.grid.push_messages(instruct([node], 1))
        assert begun.wait(60.0)
        proxy.cut()
        fleet.wait_for(lambda: not fleet.grid.get_node_ids())
        go_on.set()
        fleet.wait_for(lambda: fleet.server.exchange.counted_replies)
        [reply] = fleet.grid.pull_messages([message_id])
        assert reply.content["c"]["round"] == 1
        assert counting.handled == {message_id: 1}
        proxy.close()


CHILD = """
import sys, threading
from pathlib import Path
from fedlite.flower import Message
from fedlite.link.client import LinkClient
from fedlite.link.credentials import ClientCredentials
folder, address, hangs = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "hang"
credentials = ClientCredentials(*((folder / name).read_bytes() for name in ("ca", "certificate", "key")))
def handle(message):
    print("begun", flush=True)
    if hangs:
        threading.Event().wait()
    return Message(message.content, reply_to=message)
LinkClient(address, credentials, handle, stop=threading.Event()).run()
"""


def test_a_client_killed_in_mid_round_answers_after_its_restart(authority: Authority, tmp_path: Path) -> None:
    credentials = device(authority, "killed")
    (tmp_path / "ca").write_bytes(credentials.ca_pem)
    (tmp_path / "certificate").write_bytes(credentials.certificate_pem)
    (tmp_path / "key").write_bytes(credentials.key_pem)
    with Fleet(authority) as fleet:
        command = [sys.executable, "-c", CHILD, str(tmp_path), fleet.address]
        with subprocess.Popen([*command, "hang"], stdout=subprocess.PIPE) as first:
            fleet.wait_for(fleet.grid.get_node_ids)
            [message_id] = fleet.grid.push_messages(instruct(fleet.grid.get_node_ids(), 4))
            assert first.stdout is not None
            assert first.stdout.readline() == b"begun\n"
            first.kill()
        fleet.wait_for(lambda: not fleet.grid.get_node_ids())
        with subprocess.Popen([*command, "answer"], stdout=subprocess.PIPE) as second:
            fleet.wait_for(lambda: fleet.server.exchange.counted_replies)
            second.kill()
        [reply] = fleet.grid.pull_messages([message_id])
        assert reply.content["c"]["round"] == 4


def test_clients_come_back_to_a_server_that_started_again(authority: Authority) -> None:
    """The second server knows nothing of the first one's message: its late reply is dropped, not counted."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(message: Message) -> Message:
        begun.set()
        assert go_on.wait(60.0)
        return echo(message)

    with Fleet(authority) as first:
        proxy = Proxy(first.address)
        client = Running(proxy.address, device(authority, "loyal"), slow)
        first.wait_for(first.grid.get_node_ids)
        [node] = first.grid.get_node_ids()
        first.grid.push_messages(instruct([node], 1))
        assert begun.wait(60.0)
    with Fleet(authority) as second:
        second.clients = [client]
        proxy.target = second.address
        go_on.set()
        second.wait_for(second.grid.get_node_ids)
        [reply] = second.grid.send_and_receive(instruct([node], 2), timeout=60.0)
        assert reply.content["c"]["round"] == 2
        assert second.server.exchange.counted_replies == 1
        proxy.close()


def test_a_client_waits_for_a_server_that_is_not_there_yet_and_stops_at_once(authority: Authority) -> None:
    client = Running("127.0.0.1:9", device(authority, "patient"))
    client.end()


def test_delays_are_drawn_from_all_of_a_growing_range() -> None:
    """Uniform on [0, b]: the mean of 2 000 draws is within 5 standard errors, b / sqrt(12 · 2000), of b / 2."""
    for attempt, bound in ((0, 0.5), (3, 4.0), (6, MAX_DELAY_SECONDS), (10_000, MAX_DELAY_SECONDS)):
        draws = [back_off_seconds(attempt) for _ in range(2000)]
        assert 0 <= min(draws) <= max(draws) <= bound
        assert abs(sum(draws) / 2000 - bound / 2) < 5 * bound / (12 * 2000) ** 0.5


def test_a_message_given_up_half_way_leaves_the_stream_usable(authority: Authority) -> None:
    content = RecordDict({"a": ArrayRecord(), "c": ConfigRecord({"b": bytes(30_000_000)})})
    with Fleet(authority) as fleet:
        [node] = fleet.join(echo)
        large = Message(content, dst_node_id=node, message_type="train")
        for _ in range(3):
            fleet.grid.withdraw(fleet.grid.push_messages([large]))
            [reply] = fleet.grid.send_and_receive(instruct([node], 3), timeout=60.0)
            assert reply.content["c"]["round"] == 3
