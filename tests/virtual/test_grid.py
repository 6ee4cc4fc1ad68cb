"""VirtualGrid by itself: order, failures, memory of nodes, workers."""

import gc
import time
from collections.abc import Callable, Sequence

import pytest

from fedlite.errors import SettingsError, UpdateError
from fedlite.flower import APP_FAILED, ClientApp, ConfigRecord, Context, Message, RecordDict
from fedlite.virtual.grid import VirtualGrid

FIRST = 2  # the id of the first node


def app_of(handle: Callable[[Message, Context], Message]) -> ClientApp:
    app = ClientApp()
    app.query()(handle)
    return app


def echo(message: Message, context: Context) -> Message:
    """Who answered, and as which partition."""
    who = ConfigRecord({"node": context.node_id, "partition": int(context.node_config["partition-id"])})
    return Message(RecordDict({"who": who}), reply_to=message)


def count(message: Message, context: Context) -> Message:
    """How often this node was asked, kept in its context."""
    before = context.state.config_records.get("count", ConfigRecord({"asked": 0}))
    context.state["count"] = ConfigRecord({"asked": int(str(before["asked"])) + 1})
    return Message(RecordDict({"count": context.state["count"]}), reply_to=message)


def ask(*nodes: int) -> list[Message]:
    return [Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]


def asked(replies: Sequence[Message]) -> list[int]:
    return [int(str(reply.content.config_records["count"]["asked"])) for reply in replies]


@pytest.mark.parametrize("workers", [1, 3])
def test_replies_come_in_the_order_of_the_messages(workers: int) -> None:
    def unequal(message: Message, context: Context) -> Message:
        time.sleep(0.02 if context.node_id == 4 else 0)  # the first to be asked is the last to be done
        return echo(message, context)

    with VirtualGrid(app_of(unequal), 3, workers=workers) as grid:
        replies = list(grid.send_and_receive(ask(4, 2, 3)))
    found = [reply.content.config_records["who"] for reply in replies]
    assert [each["node"] for each in found] == [4, 2, 3]
    assert [each["partition"] for each in found] == [2, 0, 1]  # ids begin at FIRST


def test_pull_gives_a_reply_once_and_only_of_what_was_asked_for() -> None:
    with VirtualGrid(app_of(echo), 3) as grid:
        first, second = grid.push_messages(ask(2, 3))
        [reply] = grid.pull_messages([second])
        assert reply.metadata.reply_to_message_id == second
        assert reply.metadata.src_node_id == 3
        assert list(grid.pull_messages([second])) == []
        assert len(list(grid.pull_messages([second, first]))) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UpdateError("it is not finite", remedy="train it less"), "it is not finite (train it less)"),
        (ValueError("no such key"), "ValueError: no such key"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_one_client_that_fails_is_an_error_reply_beside_the_others(
    error: BaseException, reason: str, workers: int
) -> None:
    def fails(message: Message, context: Context) -> Message:
        if context.node_id == 3:
            raise error
        return echo(message, context)

    with VirtualGrid(app_of(fails), 3, workers=workers) as grid:
        replies = list(grid.send_and_receive(ask(2, 3, 4)))
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert (replies[1].error.code, replies[1].error.reason) == (APP_FAILED, reason)
    assert replies[1].metadata.src_node_id == 3


def test_an_answer_to_something_else_is_an_error() -> None:
    with VirtualGrid(lambda message, context: message, 1) as grid:  # type: ignore[arg-type]
        [reply] = grid.send_and_receive(ask(2))
    assert reply.has_error()
    assert "not a reply" in str(reply.error.reason)


def test_a_message_type_without_a_function_is_an_error_reply() -> None:
    with VirtualGrid(app_of(echo), 1) as grid:
        [reply] = grid.send_and_receive([Message(RecordDict(), dst_node_id=2, message_type="train")])
    assert reply.has_error()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_node_remembers_its_state_and_only_its_own(workers: int) -> None:
    with VirtualGrid(app_of(count), 3, workers=workers) as grid:
        assert asked(list(grid.send_and_receive(ask(2, 3)))) == [1, 1]
        assert asked(list(grid.send_and_receive(ask(3)))) == [2]
        assert asked(list(grid.send_and_receive(ask(2, 3, 4)))) == [2, 3, 1]


def test_what_a_node_wrote_before_it_failed_is_kept() -> None:
    def writes_and_fails(message: Message, context: Context) -> Message:
        reply = count(message, context)
        if asked([reply]) == [1]:
            raise OSError("power cut")
        return reply

    with VirtualGrid(app_of(writes_and_fails), 1) as grid:
        assert [reply.has_error() for reply in grid.send_and_receive(ask(2))] == [True]
        assert asked(list(grid.send_and_receive(ask(2)))) == [2]


def test_a_state_that_is_emptied_is_empty_next_time() -> None:
    def in_turn(message: Message, context: Context) -> Message:
        reply = count(message, context)
        if asked([reply]) == [2]:
            context.state.clear()
        return reply

    with VirtualGrid(app_of(in_turn), 1) as grid:
        assert [asked(list(grid.send_and_receive(ask(2)))) for _ in range(4)] == [[1], [2], [1], [2]]


def test_nodes_without_a_state_take_no_memory() -> None:
    made: list[int] = []

    def config(index: int) -> dict[str, int]:
        made.append(index)
        return {"partition-id": index}

    with VirtualGrid(app_of(echo), 10**9, node_config=config) as grid:
        assert not next(iter(grid.send_and_receive(ask(10**9)))).has_error()
        contexts = [each for each in gc.get_objects() if type(each) is Context and each.node_id == 10**9]
    assert made == [10**9 - FIRST]  # a billion nodes, and one that was ever looked at
    assert contexts == []


def test_run_config_reaches_every_node_as_a_copy() -> None:
    def spoils(message: Message, context: Context) -> Message:
        context.run_config["rate"] = float(str(context.run_config["rate"])) + 1
        return Message(
            RecordDict({"c": ConfigRecord({"rate": context.run_config["rate"]})}), reply_to=message
        )

    with VirtualGrid(app_of(spoils), 2, run_config={"rate": 1.0}) as grid:
        replies = list(grid.send_and_receive(ask(2, 3, 2)))
    assert [reply.content.config_records["c"]["rate"] for reply in replies] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("workers", [1, 2])
def test_withdrawn_clients_finish_but_say_nothing(workers: int) -> None:
    with VirtualGrid(app_of(count), 2, workers=workers) as grid:
        ids = list(grid.push_messages(ask(2, 3)))
        grid.withdraw(ids[:1])
        assert list(grid.pull_messages(ids[:1])) == []
        assert asked(list(grid.pull_messages(ids))) == [1]
        assert asked(list(grid.send_and_receive(ask(2)))) == [2]  # it was asked before, and remembers


@pytest.mark.parametrize("node", [0, 1, 4, -1])
def test_a_message_to_no_node_is_refused(node: int) -> None:
    with VirtualGrid(app_of(echo), 2) as grid:
        with pytest.raises(SettingsError, match="range\\(2, 4\\)"):
            list(grid.push_messages(ask(node)))
        with pytest.raises(SettingsError, match=f"no node {node}"):
            grid.send_and_receive(ask(node))


@pytest.mark.parametrize(("nodes", "workers"), [(0, 1), (1, 0)])
def test_there_is_at_least_one_of_each(nodes: int, workers: int) -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        VirtualGrid(app_of(echo), nodes, workers=workers)


@pytest.mark.parametrize("threshold", [0, 700, 10**6])
def test_garbage_collection_is_left_as_it_was(threshold: int) -> None:
    before, seen = gc.get_threshold(), []

    def looks(message: Message, context: Context) -> Message:
        seen.append(gc.get_threshold()[0])
        return echo(message, context)

    gc.set_threshold(threshold, *before[1:])
    try:
        with VirtualGrid(app_of(looks), 1) as grid:
            list(grid.send_and_receive(ask(2)))
            with pytest.raises(SettingsError):
                grid.send_and_receive(ask(9))
        after = gc.get_threshold()
    finally:
        gc.set_threshold(*before)
    assert after == (threshold, *before[1:])
    assert seen == [threshold and max(threshold, 50_000)]
