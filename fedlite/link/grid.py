"""Flower's Grid over the link: any `flwr.serverapp.strategy` runs on it unchanged."""

import os
import time
from collections.abc import Iterable

from fedlite.flower import SERVER_NODE_ID, Message, RunGrid, readdress
from fedlite.link.packing import pack
from fedlite.link.server import LinkServer
from fedlite.link.wire import Wire


class LinkGrid(RunGrid):
    """The Grid of one run over a started or not yet started LinkServer."""

    def __init__(self, server: LinkServer, run_id: int) -> None:
        super().__init__(run_id)
        self._server = server

    def get_node_ids(self) -> list[int]:
        """The nodes connected now, in ascending order, so that a seeded sample does not depend on arrival."""
        return sorted(self._server.connected())

    def weigh(self, node_ids: Iterable[int]) -> dict[int, Wire]:
        """Bytes on the wire of each of these nodes since it was last weighed; none where they are not known."""
        return self._server.weigh(node_ids)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages for their nodes, connected or not; returns their ids.

        Each is (re)delivered until it is replied to, withdrawn, or its time to live passes on the monotonic
        clock. Byte strings are shared by reference between the messages that hold the same objects.
        """
        letters = []
        for message in messages:
            sent = readdress(
                message,
                run_id=self._run.run_id,
                message_id=os.urandom(16).hex(),
                src_node_id=SERVER_NODE_ID,
            )
            letters.append((sent.metadata, pack(sent)))
        return self._server.exchange.post(letters)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that have come, each handed out once; error replies for messages that expired."""
        return self._server.exchange.take(message_ids)

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Close these messages: they are sent no more, and a late reply is acknowledged and dropped."""
        self._server.exchange.withdraw(message_ids)

    def wait(self, timeout_seconds: float) -> bool:
        """Block until a reply came or a node came or went since the last call; False after the timeout."""
        return self._server.exchange.wait(timeout_seconds)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push and wait for all replies, at most `timeout` seconds; what is missing then is withdrawn."""
        missing = set(self.push_messages(messages))
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        replies: list[Message] = []
        while missing:
            for reply in self.pull_messages(missing):
                missing.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            if (left := end - time.monotonic()) <= 0:
                break
            if missing:
                self.wait(min(left, 3600.0))
        self.withdraw(missing)
        return replies
