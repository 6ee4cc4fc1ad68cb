import threading

import pytest

from fedlite import flower
from fedlite.errors import FrameError
from fedlite.flower import Message, Metadata, RecordDict
from fedlite.link.exchange import Exchange
from fedlite.link.packing import Packed
from tests.link.world import echo


class Ear:
    def __init__(self) -> None:
        self.heard: list[tuple[int, str, bool]] = []

    def __call__(self, changes: list[tuple[int, str]], *, closed: bool) -> None:
        self.heard += [(node_id, message_id, closed) for node_id, message_id in changes]


def letter(message_id: str, node_id: int, ttl: float = 60.0) -> tuple[Metadata, Packed]:
    return request(message_id, node_id, ttl).metadata, Packed(b"{}", ())


def request(message_id: str, node_id: int, ttl: float = 60.0, run_id: int = 1) -> Message:
    flower.as_task(1)
    made = Message(RecordDict(), dst_node_id=node_id, message_type="train", ttl=ttl)
    return flower.readdress(made, run_id=run_id, message_id=message_id, src_node_id=1)


def test_letters_wait_for_their_node_in_order() -> None:
    exchange = Exchange()
    assert exchange.post([letter("a", 5), letter("b", 6), letter("c", 5)]) == ["a", "b", "c"]
    assert [exchange.next(5, set())[0], exchange.next(5, {"a"})[0]] == ["a", "c"]  # type: ignore[index]
    assert exchange.next(5, {"a", "c"}) is None
    assert exchange.next(7, set()) is None


def test_a_reply_counts_once() -> None:
    exchange = Exchange()
    exchange.post([letter("a", 5)])
    assert exchange.wants(5, "a")
    assert exchange.settle(5, "a", echo(request("a", 5)))
    assert not exchange.settle(5, "a", echo(request("a", 5)))
    assert exchange.next(5, set()) is None
    assert len(exchange.take(["a"])) == 1
    assert exchange.take(["a"]) == []
    assert not exchange.settle(5, "a", echo(request("a", 5)))
    assert (exchange.counted_replies, exchange.dropped_replies) == (1, 2)


def test_replies_to_nothing_are_dropped_and_those_of_others_refused() -> None:
    exchange = Exchange()
    exchange.post([letter("a", 5)])
    assert not exchange.settle(5, "z", echo(request("z", 5)))
    with pytest.raises(FrameError, match="another node"):
        exchange.wants(6, "a")
    with pytest.raises(FrameError, match="another node"):
        exchange.settle(6, "a", echo(request("a", 6)))
    with pytest.raises(FrameError, match="sender"):
        exchange.settle(6, "a", echo(request("a", 5)))
    with pytest.raises(FrameError, match="sender"):
        exchange.settle(5, "a", echo(request("b", 5)))
    with pytest.raises(FrameError, match="run 2"):
        exchange.settle(5, "a", echo(request("a", 5, run_id=2)))
    assert exchange.take(["a"]) == []


def test_withdrawn_letters_are_forgotten() -> None:
    ear = Ear()
    exchange = Exchange(listener=ear)
    exchange.post([letter("a", 5), letter("b", 5)])
    exchange.settle(5, "b", echo(request("b", 5)))
    exchange.withdraw(["a", "b", "unknown"])
    assert exchange.next(5, set()) is None
    assert not exchange.wants(5, "a")
    assert not exchange.settle(5, "a", echo(request("a", 5)))
    assert exchange.take(["a", "b"]) == []
    assert ear.heard == [(5, "a", False), (5, "b", False), (5, "a", True)]


def test_a_letter_whose_time_passed_becomes_an_error_reply() -> None:
    exchange = Exchange()
    exchange.post([letter("a", 5, ttl=0.001)])
    exchange.wait(0.0)
    assert exchange.wait(10.0)
    assert exchange.next(5, set()) is None
    [reply] = exchange.take(["a"])
    assert reply.error.code == flower.EXPIRED
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) == ("a", 5)


def test_wait_misses_nothing_that_happened_before_it() -> None:
    exchange = Exchange()
    assert not exchange.wait(0.0)
    exchange.notify()
    assert exchange.wait(0.0)
    assert not exchange.wait(0.0)
    waiting = threading.Thread(target=exchange.notify)
    waiting.start()
    assert exchange.wait(60.0)
    waiting.join()
