"""VirtualGrid: the client app run in this process, one message after another, behind Flower's Grid.

Replies come back in the order the messages were pushed, whatever the number of workers: same seed, same bytes.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from fedlite.errors import FedliteError, FrameError, SettingsError
from fedlite.flower import (
    APP_FAILED,
    SERVER_NODE_ID,
    ClientApp,
    Context,
    Grid,
    Message,
    RecordDict,
    Run,
    as_task,
    empty_run,
    error_reply,
    readdress,
)

NodeConfig = Mapping[str, bool | float | int | str]


class VirtualGrid(Grid):
    """`num_nodes` clients with ids 2 … num_nodes + 1, each with its own context; `workers` ≥ 1 run at a time.

    `node_config(index)` is what Flower passes a node as its configuration. A context is made when its node is
    first drawn. Use as a context manager, or call `close`.
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
        self._node_ids = range(2, num_nodes + 2)
        self._contexts: dict[int, Context] = {}
        self._jobs: dict[str, Callable[[], Message]] = {}
        self._futures: dict[str, Future[Message]] = {}
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None
        self._count = 0
        self._run = empty_run(run_id)
        as_task(run_id)

    def __enter__(self) -> "VirtualGrid":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what runs and forget what does not."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._jobs.clear()

    def set_run(self, run: Run) -> None:
        """Flower's: the run whose messages these are."""
        self._run = run
        as_task(run.run_id)

    @property
    def run(self) -> Run:
        """Flower's."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Flower's."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes: a virtual node is always there."""
        return self._node_ids

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; ids are numbered in order."""
        ids = []
        for message in messages:
            node_id = message.metadata.dst_node_id
            if node_id not in self._node_ids:
                raise SettingsError(f"no node {node_id}; there are {self._node_ids}")
            self._count += 1
            message_id = f"virtual-{self._count}"
            request = readdress(
                message, run_id=self._run.run_id, message_id=message_id, src_node_id=SERVER_NODE_ID
            )
            job = partial(self._handle, request)
            self._jobs[message_id] = job
            if self._pool is not None:
                self._futures[message_id] = self._pool.submit(job)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run (or wait for) the first of these that is outstanding, and return its reply."""
        for message_id in message_ids:
            job = self._jobs.pop(message_id, None)
            if job is not None:
                future = self._futures.pop(message_id, None)
                return [future.result() if future is not None else job()]
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Every reply, in the order of the messages; a virtual client always answers, so `timeout` has no use."""
        ids = list(self.push_messages(messages))
        return [reply for message_id in ids for reply in self.pull_messages([message_id])]

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Let clients nobody waits for any more finish, as real ones do, and drop what they say.

        They have trained, and remember it: so it must not depend on how far the workers had come.
        """
        for message_id in message_ids:
            for _ in self.pull_messages([message_id]):
                pass

    def _handle(self, request: Message) -> Message:
        """A client's failure is its reply, as on the link."""
        node_id = request.metadata.dst_node_id
        try:
            reply = self._app(request, self._context(node_id))
            if not _answers(reply, request):
                raise FrameError("the app's message is not a reply to what it was given")
        except FedliteError as error:
            return error_reply(request.metadata, APP_FAILED, str(error))
        except Exception as error:  # any app may run here, and one client must not end the simulation
            return error_reply(request.metadata, APP_FAILED, f"{type(error).__name__}: {error}")
        return reply

    def _context(self, node_id: int) -> Context:
        if node_id not in self._contexts:
            config = dict(self._node_config(node_id - 2))
            self._contexts[node_id] = Context(
                self._run.run_id, node_id, config, RecordDict(), dict(self._run_config)
            )
        return self._contexts[node_id]


def _answers(reply: object, request: Message) -> bool:
    """Whether an app gave back a message, to this request."""
    return isinstance(reply, Message) and (
        reply.metadata.reply_to_message_id == request.metadata.message_id
        and reply.metadata.src_node_id == request.metadata.dst_node_id
    )
