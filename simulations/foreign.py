"""Any Flower app on a VirtualGrid: `python -m simulations --app path/to/flower_app`."""

import importlib
import logging
import random
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, cast

import numpy as np

from fedlite.errors import SettingsError
from fedlite.flower import SERVER_NODE_ID, ClientApp, Context, Message, RecordDict, ServerApp, quiet
from fedlite.virtual.grid import VirtualGrid

KNOWS = {"app", "clients", "workers", "seed"}  # the settings that an app's run has
MOST_LOOKS = 20  # for nodes, one after another: Flower's strategies look every second while too few are there
Values = dict[str, bool | float | int | str]


def run_app(path: Path, *, clients: int, workers: int, seed: int, stop: Event) -> bool:
    """Run the server app and the client app of a Flower project in this process; False if `stop` cut it short.

    `path` holds a pyproject.toml with [tool.flwr.app.components]; each of `clients` nodes is configured with its
    partition-id and num-partitions. Python's and NumPy's global generators are seeded, since apps draw from them.
    Flower's own lines are shown: they are the run's progress, and name the clients that failed.
    SettingsError if there is no such app; what the server app raises passes through.
    """
    tool = _read(path / "pyproject.toml")
    run_config = _flat(tool.get("config", {}))
    random.seed(seed)
    np.random.seed(seed % 2**32)
    quiet(logging.INFO)
    with _importable(path):
        server_app = _load(tool, "serverapp", ServerApp, path)
        client_app = _load(tool, "clientapp", ClientApp, path)

        def node_config(index: int) -> Values:
            return {"partition-id": index, "num-partitions": clients}

        def stoppable(message: Message, context: Context) -> Message:
            if stop.is_set():
                raise KeyboardInterrupt  # which neither the grid nor an app takes for a client's failure
            return cast(Message, client_app(message, context))

        with _Stoppable(
            cast(ClientApp, stoppable),
            clients,
            stop=stop,
            node_config=node_config,
            run_config=run_config,
            workers=workers,
        ) as grid:
            try:
                server_app(grid, Context(grid.run.run_id, SERVER_NODE_ID, {}, RecordDict(), run_config))
            except KeyboardInterrupt:
                return False
    return True


class _Stoppable(VirtualGrid):
    """A grid that ends an app which only waits: when it is told to, or when the app waits for nodes that never come."""

    def __init__(self, *given: Any, stop: Event, **options: Any) -> None:
        self._stop, self._looks = stop, 0  # looks at who is there, since the last message
        super().__init__(*given, **options)

    def get_node_ids(self) -> Iterable[int]:
        """See VirtualGrid. SettingsError when nothing else is done."""
        if self._stop.is_set():
            raise KeyboardInterrupt
        self._looks += 1
        if self._looks > MOST_LOOKS:
            raise SettingsError(
                f"the app looked {MOST_LOOKS} times for nodes; there are {len(self._node_ids)}, and no more will come",
                remedy="give more --clients, or let the app wait for fewer",
            )
        return super().get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See VirtualGrid."""
        self._looks = 0
        return super().push_messages(messages)


def _read(path: Path) -> Mapping[str, Any]:
    """The [tool.flwr.app] table."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        app: Mapping[str, Any] = table["tool"]["flwr"]["app"]
        if not {"serverapp", "clientapp"} <= app["components"].keys():
            raise KeyError("components")
    except OSError as error:
        raise SettingsError(f"there is no Flower app at {path.parent}: {path} cannot be read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path} has no [tool.flwr.app.components] with serverapp and clientapp"
        ) from error
    if not isinstance(app.get("config", {}), dict):
        raise SettingsError(f"[tool.flwr.app.config] of {path} is not a table")
    return app


def _load(tool: Mapping[str, Any], which: str, kind: type, path: Path) -> Any:
    """The object that `module:attribute` names."""
    reference = str(tool["components"][which])
    module, _, attribute = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, SyntaxError, AttributeError, TypeError, ValueError) as error:
        raise SettingsError(f"cannot load the {which} {reference!r} of {path}: {error}") from error
    if not isinstance(found, kind):
        raise SettingsError(f"{reference!r} of {path} is a {type(found).__name__}, a {kind.__name__} wanted")
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> Values:
    """Flower's run config: nested tables become dotted keys."""
    flat: Values = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    """The app's own modules can be imported, before any of the same name."""
    sys.path.insert(0, str(path.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(path.resolve()))
