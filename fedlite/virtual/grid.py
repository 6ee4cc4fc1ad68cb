"""VirtualGrid: the client app run in this process, one message after another, behind Flower's Grid.

Replies come back in the order the messages were pushed, whatever the number of workers: same seed, same bytes.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from fedlite.errors import FedliteError, FrameError, SettingsError
from fedlite.flower import (
    APP_FAILED,
    SERVER_NODE_ID,
    ClientApp,
    Context,
    Message,
    RecordDict,
    RunGrid,
    error_reply,
    readdress,
)

FIRST_NODE = 2  # 1 is Flower's number for the server
_ALLOCATIONS = 50_000  # between garbage collections in a round: those of about a hundred models

NodeConfig = Mapping[str, bool | float | int | str]


class VirtualGrid(RunGrid):
    """`num_nodes` clients with ids 2 … num_nodes + 1, each with its own context; `workers` ≥ 1 run at a time.

    `node_config(index)` is what Flower passes a node as its configuration. A
    context is made for each message; between messages a node is its `state`, if there is anything in it, and
    takes no memory otherwise. Use as a context manager, or call `close`.
    """

    def __init__(
        self,
        app: ClientApp,
        num_nodes: int,
        *,
        node_config: Callable[[int], NodeConfig] = lambda index: {"partition-id": index},
        run_config: NodeConfig | None = None,
        run_id: int = 1,
        workers: int = 1,
    ) -> None:
        if num_nodes < 1 or workers < 1:
            raise SettingsError(f"{num_nodes} nodes and {workers} workers; at least 1 of each wanted")
        self._app, self._node_config, self._run_config = app, node_config, dict(run_config or {})
        self._node_ids = range(FIRST_NODE, num_nodes + FIRST_NODE)
        self._states: dict[int, RecordDict] = {}  # of nodes that have something to remember
        self._requests: dict[str, Message] = {}  # pushed, not answered yet, in order
        self._futures: dict[str, Future[Message]] = {}
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None
        self._count = 0
        super().__init__(run_id)

    def __enter__(self) -> "VirtualGrid":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what runs and forget what does not."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._requests.clear()

    def get_node_ids(self) -> Iterable[int]:
        """All nodes: a virtual node is always there."""
        return self._node_ids

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; ids are numbered in order."""
        ids = []
        for message in messages:
            request = self._address(message)
            message_id = request.metadata.message_id
            self._requests[message_id] = request
            if self._pool is not None:
                self._futures[message_id] = self._pool.submit(self._handle, request)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run (or wait for) the first of these that is outstanding, and give its reply."""
        first = next((each for each in message_ids if each in self._requests), None)
        if first is None:
            return []
        request, future = self._requests.pop(first), self._futures.pop(first, None)
        return [future.result() if future is not None else self._handle(request)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Every reply, in the order of the messages; a virtual client always answers, so `timeout` has no use."""
        if self._pool is None:
            with _collecting_seldom():
                return [self._handle(self._address(message)) for message in messages]
        ids = list(self.push_messages(messages))
        return [reply for message_id in ids for reply in self.pull_messages([message_id])]

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Let clients nobody waits for any more finish, as real ones do, and drop what they say.

        They have trained, and remember it: so it must not depend on how far the workers had come.
        """
        for message_id in message_ids:
            self.pull_messages([message_id])

    def _address(self, message: Message) -> Message:
        """The message as its node receives it, under the next number. SettingsError if there is no such node."""
        node_id = message.metadata.dst_node_id
        if node_id not in self._node_ids:
            raise SettingsError(f"no node {node_id}; there are {self._node_ids}")
        self._count += 1
        return readdress(
            message,
            run_id=self._run.run_id,
            message_id=f"virtual-{self._count}",
            src_node_id=SERVER_NODE_ID,
        )

    def _handle(self, request: Message) -> Message:
        """A client's failure is its reply, as on the link."""
        context = self._context(request.metadata.dst_node_id)
        try:
            reply = self._app(request, context)
            if not _answers(reply, request):
                raise FrameError("the app's message is not a reply to what it was given")
        except (Exception, SystemExit) as error:  # any app may run here: a client's end is not everybody's
            return _failure(request, error)
        finally:
            self._keep(context)
        return reply

    def _context(self, node_id: int) -> Context:
        config, state = dict(self._node_config(node_id - FIRST_NODE)), self._states.get(node_id)
        state = RecordDict() if state is None else state
        return Context(self._run.run_id, node_id, config, state, dict(self._run_config))

    def _keep(self, context: Context) -> None:
        if context.state:
            self._states[context.node_id] = context.state
        else:
            self._states.pop(context.node_id, None)


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """A round's replies are all alive until it ends: searching them for garbage every 700 objects finds none."""
    first, *others = gc.get_threshold()
    gc.set_threshold(first and max(first, _ALLOCATIONS), *others)  # 0 is off, and stays off
    try:
        yield
    finally:
        gc.set_threshold(first, *others)


def _failure(request: Message, error: BaseException) -> Message:
    reason = str(error) if isinstance(error, FedliteError) else f"{type(error).__name__}: {error}"
    return error_reply(request.metadata, APP_FAILED, reason)


def _answers(reply: object, request: Message) -> bool:
    """Whether an app gave back a message, to this request."""
    if not isinstance(reply, Message):
        return False
    told, asked = reply.metadata, request.metadata
    return told.reply_to_message_id == asked.message_id and told.src_node_id == asked.dst_node_id
