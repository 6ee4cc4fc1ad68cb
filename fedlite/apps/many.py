"""The client app for a simulator: it answers a whole cohort at once, trained by the compiled kernel where it can.

Each client's numbers are those of the client app alone, to rounding: they depend neither on the cohort around it nor
on how many threads there are. What the kernel cannot train is trained one after another.
"""

import logging
from collections.abc import Iterator, Sequence

from fedlite.apps.client import DeviceOf, Task, answer, finish, prepare, run_task
from fedlite.apps.offer import read_offer
from fedlite.errors import FedliteError
from fedlite.flower import ClientApp, Context, Message, RecordDict
from fedlite.modules import module_of

_log = logging.getLogger("fedlite.simulation")

Outcome = Message | Exception


class CohortApp(ClientApp):
    """A ClientApp with `answer_many`, which VirtualGrid uses. `threads` ≥ 1 train at a time."""

    def __init__(self, device_of: DeviceOf, *, threads: int = 1, kernel: bool = True) -> None:
        super().__init__()
        self._device_of, self._threads, self._kernel = device_of, threads, kernel
        self._told: set[str] = set()

        @self.train()
        def train(message: Message, context: Context) -> Message:
            return Message(answer(device_of(context), read_offer(message.content)), reply_to=message)

    def answer_many(self, requests: Sequence[tuple[Message, Context]]) -> list[Outcome]:
        """A reply, or what went wrong, for each request, in order."""
        prepared = [self._prepare(message, context) for message, context in requests]
        tasks = [each for each in prepared if isinstance(each, Task)]
        trained = iter(self._train(tasks))
        outcomes: list[Outcome] = []
        for (message, _), each in zip(requests, prepared, strict=True):
            content = next(trained) if isinstance(each, Task) else each
            outcomes.append(content if isinstance(content, Exception) else Message(content, reply_to=message))
        return outcomes

    def _prepare(self, message: Message, context: Context) -> Task | RecordDict | Exception:
        try:
            return prepare(self._device_of(context), read_offer(message.content))
        except Exception as error:  # one client's failure is its own
            return error

    def _train(self, tasks: Sequence[Task]) -> Iterator[RecordDict | Exception]:
        """The answers of tasks of one round, in order."""
        if tasks and self._kernel and _of_one_round(tasks) and self._supported(tasks[0]):
            yield from self._train_together(tasks)
        else:
            yield from map(_train_alone, tasks)

    def _train_together(self, tasks: Sequence[Task]) -> Iterator[RecordDict | Exception]:
        from fedlite.virtual.kernel import train_cohort

        first = tasks[0]
        settings = first.manifest.settings
        try:
            results = train_cohort(
                module_of(first.manifest.model, settings.bits),
                first.version.params,
                [(task.drawn.x, task.drawn.y) for task in tasks],
                settings,
                seeds=[task.seed for task in tasks],
                masks=first.version.masks,
                threads=self._threads,
            )
        except FedliteError:  # some client's data do not fit: alone, each answers for itself
            yield from map(_train_alone, tasks)
            return
        for task, result in zip(tasks, results, strict=True):
            try:
                yield finish(task, result)
            except FedliteError as error:
                yield error

    def _supported(self, task: Task) -> bool:
        """Whether the kernel can train this; says once why not."""
        from fedlite.virtual import kernel

        settings = task.manifest.settings
        reason = kernel.available() or kernel.supports(
            module_of(task.manifest.model, settings.bits), settings
        )
        if reason is not None and reason not in self._told:
            self._told.add(reason)
            _log.warning("clients are trained one after another: %s", reason)
        return reason is None


def _of_one_round(tasks: Sequence[Task]) -> bool:
    first = tasks[0]
    return all(task.version is first.version and task.manifest is first.manifest for task in tasks)


def _train_alone(task: Task) -> RecordDict | Exception:
    try:
        return finish(task, run_task(task))
    except Exception as error:  # one client's failure is its own
        return error
