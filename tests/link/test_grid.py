"""Flower's own strategies over real sockets give what the arithmetic says."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from flwr.serverapp import strategy as stock

from fedlite import flower
from fedlite.crypto.certificates import Authority
from fedlite.errors import SettingsError, UpdateError
from fedlite.flower import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from fedlite.link.connection import Traffic
from tests.link.world import RUN_ID, Fleet, echo

START = [np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.array([10.0], np.float32)]


def trainer(step: float, examples: int) -> Callable[[Message], Message]:
    """A Flower ClientApp that adds `step` to every weight."""
    app = flower.ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = [array + np.float32(step) for array in message.content["arrays"].to_numpy_ndarrays()]
        metrics = MetricRecord({"num-examples": examples, "loss": step})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        loss = float(sum(array.sum() for array in message.content["arrays"].to_numpy_ndarrays()))
        return Message(
            RecordDict({"metrics": MetricRecord({"num-examples": examples, "loss": loss})}), reply_to=message
        )

    context = Context(run_id=RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config={})
    return lambda message: app(message, context)


def run(fleet: Fleet, strategy: stock.Strategy, rounds: int) -> stock.Result:
    return strategy.start(fleet.grid, ArrayRecord([a.copy() for a in START]), num_rounds=rounds, timeout=60.0)


def weights(result: stock.Result) -> list[np.ndarray]:
    return result.arrays.to_numpy_ndarrays()


def test_fedavg(authority: Authority) -> None:
    """Steps 1, 2, 6 of 1, 1, 2 examples: the mean is (1 + 2 + 2 · 6) / 4 = 3.75 a round, 7.5 after two."""
    with Fleet(authority) as fleet:
        fleet.join(trainer(1.0, 1), trainer(2.0, 1), trainer(6.0, 2))
        result = run(fleet, stock.FedAvg(min_available_nodes=3), 2)
        for got, start in zip(weights(result), START, strict=True):
            np.testing.assert_array_equal(got, start + np.float32(7.5))
        assert result.train_metrics_clientapp[2]["loss"] == 3.75
        assert result.evaluate_metrics_clientapp[2]["loss"] == 20 + 5 * 7.5
        assert fleet.server.exchange.dropped_replies == 0


def test_fedadam(authority: Authority) -> None:
    """Reddi 2021, Alg. 2, with d = 2 and zero moments before: one step by hand.

    m = 0.1 · 2 = 0.2;  v = 0.01 · 4 = 0.04;  Flower corrects eta as Adam does, with round 1 counted as 2:
    eta_norm = eta · sqrt(1 − 0.99²) / (1 − 0.9²).
    """
    with Fleet(authority) as fleet:
        fleet.join(trainer(1.0, 3), trainer(3.0, 3))
        adam = stock.FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)
        eta = 0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
        step = eta * 0.2 / (np.sqrt(0.04) + 1e-3)
        for got, start in zip(weights(run(fleet, adam, 1)), START, strict=True):
            np.testing.assert_allclose(got, start + step, rtol=1e-6)


def test_fedmedian(authority: Authority) -> None:
    """The median of the steps 1, 2 and 1000 is 2, whatever their weights."""
    with Fleet(authority) as fleet:
        fleet.join(trainer(1.0, 1), trainer(2.0, 1), trainer(1000.0, 50))
        result = run(fleet, stock.FedMedian(min_available_nodes=3), 1)
        for got, start in zip(weights(result), START, strict=True):
            np.testing.assert_array_equal(got, start + np.float32(2.0))


def test_krum(authority: Authority) -> None:
    """Blanchard 2017, f = 1, n = 5: each is scored by its 5 − 1 − 2 = 2 nearest.

    Steps 0, 1, 1.5, 3, 100: 1.5 has 0.25 + 2.25, 1 has 0.25 + 1, 0 has 1 + 2.25, 3 has 2.25 + 4: 1 wins.
    """
    with Fleet(authority) as fleet:
        fleet.join(*(trainer(step, 1) for step in (0.0, 1.0, 1.5, 3.0, 100.0)))
        result = run(fleet, stock.Krum(num_malicious_nodes=1, min_available_nodes=5), 1)
        for got, start in zip(weights(result), START, strict=True):
            np.testing.assert_array_equal(got, start + np.float32(1.0))


def instruct(node_ids: list[int], **options: float) -> list[Message]:
    content = RecordDict({"c": ConfigRecord({"lr": 0.1})})
    return [Message(content, dst_node_id=node, message_type="train", **options) for node in node_ids]


def test_large_messages_in_both_directions(authority: Authority) -> None:
    data = np.random.default_rng(1).bytes(9_000_001)
    content = RecordDict({"a": ArrayRecord({"w": flower.Array("uint8", (9_000_001,), "fedlite.v1", data)})})
    with Fleet(authority) as fleet:
        nodes = fleet.join(echo, echo)
        replies = fleet.grid.send_and_receive(
            [Message(content, dst_node_id=node, message_type="train") for node in nodes], timeout=60.0
        )
        assert [reply.content["a"]["w"].data for reply in replies] == [data, data]
        traffic = fleet.server.traffic()
        for node in nodes:
            assert isinstance(traffic[node], Traffic)
            assert len(data) < traffic[node].sent_bytes < len(data) + 2000
            assert len(data) < traffic[node].received_bytes < len(data) + 2000


def test_what_a_handler_raises_becomes_an_error_reply(authority: Authority) -> None:
    def secretive(message: Message) -> Message:
        raise KeyError("a patient's name")

    def typed(message: Message) -> Message:
        raise UpdateError("'conv1' is float64")

    def wrong(message: Message) -> Message:
        return message

    with Fleet(authority) as fleet:
        nodes = fleet.join(secretive, typed, wrong, echo)
        replies = fleet.grid.send_and_receive(instruct(nodes), timeout=60.0)
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        first, second, third = (by_node[node].error for node in nodes[:3])
        assert first.code == second.code == third.code == flower.APP_FAILED
        assert first.reason.startswith("KeyError in secretive")
        assert "patient" not in first.reason
        assert second.reason == "UpdateError: 'conv1' is float64"
        assert third.reason.startswith("ValueError")
        assert by_node[nodes[3]].has_content()


def test_messages_to_an_absent_node_expire_or_are_withdrawn(authority: Authority) -> None:
    with Fleet(authority) as fleet:
        [reply] = fleet.grid.send_and_receive(instruct([77], ttl=0.05))
        assert reply.error.code == flower.EXPIRED
        assert fleet.grid.send_and_receive(instruct([77]), timeout=0.05) == []
        assert fleet.server.exchange.next(77, set()) is None


def test_a_withdrawn_message_is_not_begun_and_its_late_reply_not_counted(authority: Authority) -> None:
    begun, go_on, handled = threading.Event(), threading.Event(), []

    def slow(message: Message) -> Message:
        handled.append(message.metadata.message_id)
        begun.set()
        assert go_on.wait(60.0)
        return echo(message)

    with Fleet(authority) as fleet:
        [node] = fleet.join(slow)
        first, second, third = fleet.grid.push_messages(instruct([node] * 3))
        assert begun.wait(60.0)
        fleet.grid.withdraw([first, second])
        fleet.wait_for(lambda: fleet.server.traffic()[node].sent_bytes)
        go_on.set()
        fleet.wait_for(lambda: fleet.server.exchange.counted_replies)
        [reply] = fleet.grid.pull_messages([first, second, third])
        assert reply.metadata.reply_to_message_id == third
        assert third in handled
        assert first in handled
        assert fleet.server.exchange.counted_replies == 1


def test_a_reply_larger_than_the_server_takes_becomes_an_error_reply(authority: Authority) -> None:
    def large(message: Message) -> Message:
        return Message(RecordDict({"c": ConfigRecord({"b": bytes(200_000)})}), reply_to=message)

    with Fleet(authority, max_message_bytes=100_000) as fleet:
        nodes = fleet.join(large, echo)
        replies = fleet.grid.send_and_receive(instruct(nodes), timeout=60.0)
        [error] = [reply.error for reply in replies if reply.has_error()]
        assert "the server takes 100000" in error.reason
        assert len(replies) == 2


def test_the_grid_knows_its_run_and_nodes(authority: Authority) -> None:
    with Fleet(authority) as fleet:
        assert fleet.grid.run.run_id == RUN_ID
        assert fleet.grid.get_node_ids() == []
        nodes = fleet.join(echo, echo)
        assert fleet.grid.get_node_ids() == sorted(nodes)
        made = fleet.grid.create_message(RecordDict(), "query", nodes[0], "7", 5.0)
        assert (made.metadata.run_id, made.metadata.group_id, made.metadata.ttl) == (RUN_ID, "7", 5.0)
        fleet.clients[0].end()
        fleet.wait_for(lambda: fleet.grid.get_node_ids() == [nodes[1]])
        assert set(fleet.server.seen()) == set(nodes)


@pytest.mark.parametrize("address", ["here", "1.2.3.4:", ":80", "h:99999", "h:x"])
def test_impossible_addresses_are_refused(authority: Authority, address: str) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        Fleet(authority, listen=address)
