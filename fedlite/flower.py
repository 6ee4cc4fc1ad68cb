"""Flower's objects under one roof, its telemetry off, and the one private Flower import."""

import logging
import os

# Flower reads these when it is imported: nothing leaves a device unasked.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as stock

# `Message(...)` reads run and node from TaskIdentity, which Flower sets only in processes it starts itself,
# and `Grid.set_run` takes a Run: neither has a public name in 1.41. Imported here and nowhere else.
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Error",
    "Grid",
    "Message",
    "MessageType",
    "Metadata",
    "MetricRecord",
    "RecordDict",
    "Run",
    "ServerApp",
    "as_some_task",
    "as_task",
    "empty_run",
    "error_reply",
    "make_message",
    "quiet",
    "readdress",
    "stock_strategies",
]

SERVER_NODE_ID = 1  # the sender Flower's own link gives to a server's messages

EXPIRED = 3  # Flower's ErrorCode.MESSAGE_UNAVAILABLE
APP_FAILED = 2  # Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION

METADATA_FIELDS = (  # the order in a header
    *("run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id"),
    *("created_at", "ttl", "message_type", "src_task_id", "dst_task_id"),
)


def as_task(run_id: int, node_id: int = SERVER_NODE_ID) -> None:
    """Let this process make `Message(...)` objects; run and node ids are in 0 … 2^64 − 1."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id
    TaskIdentity.task_id = 0


def as_some_task() -> None:
    """As `as_task`, unless a grid has said already which run this is: for messages that are not sent."""
    try:
        _ = TaskIdentity.run_id
    except RuntimeError:
        as_task(1)


def quiet(level: int = logging.WARNING) -> None:
    """Show Flower's own log lines from `level` upwards only."""
    logging.getLogger("flwr").setLevel(level)


def stock_strategies() -> dict[str, type]:
    """Flower's own strategies by name."""
    return {name: getattr(stock, name) for name in stock.__all__ if name not in ("Strategy", "Result")}


def empty_run(run_id: int) -> Run:
    """A Run that holds nothing but its id: the link has no app bundle to describe."""
    return Run.create_empty(run_id)


def readdress(message: Message, *, run_id: int, message_id: str, src_node_id: int) -> Message:
    """The same content (shared, not copied) under the sender, run and id that a grid gives it."""
    given = message.metadata
    values = {name: getattr(given, name) for name in METADATA_FIELDS}
    values |= {"run_id": run_id, "message_id": message_id, "src_node_id": src_node_id}
    return make_message(
        Metadata(**values),
        content=message.content if message.has_content() else None,
        error=message.error if message.has_error() else None,
    )


def error_reply(request: Metadata, code: int, reason: str) -> Message:
    """A reply that reports failure; `reason` must hold neither secrets nor samples."""
    return make_message(
        Metadata(
            run_id=request.run_id,
            message_id="",
            src_node_id=request.dst_node_id,
            dst_node_id=request.src_node_id,
            reply_to_message_id=request.message_id,
            group_id=request.group_id,
            created_at=request.created_at,
            ttl=request.ttl,
            message_type=request.message_type,
        ),
        error=Error(code, reason),
    )


class RunGrid(Grid):
    """What Flower asks of every grid and does not depend on how messages travel."""

    def __init__(self, run_id: int) -> None:
        self.set_run(empty_run(run_id))

    def set_run(self, run: Run) -> None:
        """Messages made in this process from now on belong to this run."""
        self._run = run
        as_task(run.run_id)

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node; `ttl` in seconds [12 hours]."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
