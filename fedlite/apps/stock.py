"""Any stock Flower strategy as a round's rule: it sees ordinary messages with whole models in them.

Who takes part is decided as for our own strategies (cohort, quorum, over-selection); the strategy decides what
becomes of the results. Statistics (activation ranges) are averaged beside it: they are measured, not learned.
"""

import gc
import inspect
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from fedlite import aggregate
from fedlite.errors import QuorumError, SettingsError
from fedlite.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
    as_some_task,
    quiet,
    stock_strategies,
)
from fedlite.rounds import Combined
from fedlite.strategies.base import State
from fedlite.strategies.named import split_spec
from fedlite.tensors import add
from fedlite.types import Params, Result, is_statistic

SUPPORTED = (
    "FedAvg", "FedProx", "FedAdam", "FedYogi", "FedAdagrad", "FedAvgM",
    "FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan", "QFedAvg",
)  # fmt: skip
_CLIENT_SETTINGS = {"proximal-mu": "proximal_mu"}  # config keys of stock strategies that our clients know
_OURS = ("fraction_", "min_")  # options about who takes part
_EVERYONE = {
    "fraction_evaluate": 0.0,
    "min_evaluate_nodes": 0,
    "min_available_nodes": 1,
    "min_train_nodes": 1,
}


def stock_rule(spec: str, seed: int) -> "StockRule":
    """`NAME:key=number,…` of flwr.serverapp.strategy. SettingsError lists the strategies or the options."""
    quiet(logging.ERROR)
    as_some_task()  # strategies make messages, and a stacked simulation has no grid
    name, options = split_spec(spec)
    known = stock_strategies()
    if name not in SUPPORTED or name not in known:
        raise SettingsError(f"there is no flwr:{name} here; there are {', '.join(SUPPORTED)}")
    parameters = inspect.signature(known[name]).parameters
    accepted = set(parameters)
    free = sorted(
        option
        for option, each in parameters.items()
        if not option.startswith(_OURS) and each.annotation in (int, float, "int", "float")
    )
    if odd := set(options) - set(free):
        raise SettingsError(
            f"flwr:{name} takes no {sorted(odd)}; it takes {', '.join(free)}",
            remedy="who takes part is set by --cohort, --quorum and --over-selection",
        )
    numbers = {key: int(value) if value.is_integer() else value for key, value in options.items()}
    chosen = {key: value for key, value in _EVERYONE.items() if key in accepted} | numbers
    rule = StockRule(partial(known[name], **chosen), seed)
    try:
        rule.client_settings()
    except (TypeError, ValueError) as error:
        raise SettingsError(f"flwr:{name} cannot be made with {options}: {error}") from error
    return rule


@dataclass(frozen=True)
class StockRule:
    """A strategy made anew for every round, from the state it had after the last one.

    Holds every result of a round in memory, as stock strategies do.
    """

    make: Callable[[], Any]
    seed: int

    def init(self, params: Params) -> State:
        """Stock strategies make their state in the first round."""
        return {}

    def client_settings(self) -> Mapping[str, float]:
        """What the strategy asks of clients, as far as our clients know it."""
        config = self._configure(self.make(), 1, {})
        return {ours: float(str(config[key])) for key, ours in _CLIENT_SETTINGS.items() if key in config}

    def combine(self, round_num: int, params: Params, state: State, results: Iterable[Result]) -> Combined:
        """Hand the strategy one reply per result, with the client's whole model in it.

        QuorumError if it cannot make a model of them: Bulyan, for one, needs more results than it suspects liars.
        """
        learned = {name: value for name, value in params.items() if not is_statistic(name)}
        measured = {name: value for name, value in params.items() if is_statistic(name)}
        replies, total = [], aggregate.start(measured)
        for result in sorted(
            results, key=lambda each: each.client_id
        ):  # ties must not fall by time of arrival
            total = aggregate.add(total, replace(result, update=_only(result.update, measured)))
            replies.append(_reply(add(learned, result.update), result))
        strategy = self.make()
        _restore(strategy, state)
        self._configure(strategy, round_num, learned)
        try:
            with _older_objects_frozen():
                arrays, _ = strategy.aggregate_train(round_num, replies)
        except Exception as error:  # a strategy of Flower's may raise what it likes
            raise QuorumError(f"{type(strategy).__name__}, of {len(replies)} results: {error}") from error
        if arrays is None:
            raise QuorumError(f"{type(strategy).__name__} made no model of {len(replies)} results")
        ranges = add(measured, aggregate.finish(total))
        after = {
            name: ranges[name] if name in ranges else np.asarray(arrays[name].numpy(), np.float32)
            for name in params
        }
        return Combined(after, _capture(strategy), aggregate.mean_metrics(total))

    def _configure(self, strategy: Any, round_num: int, params: Params) -> ConfigRecord:
        """Let the strategy see the round's model, as its own loop would; returns what it tells clients."""
        config = ConfigRecord()
        before = random.getstate()
        random.seed(self.seed)  # stock strategies draw from the global generator: it is given back as it was
        try:
            messages = strategy.configure_train(round_num, _arrays(params), config, _OneNode())
        finally:
            random.setstate(before)
        for message in messages:
            for record in message.content.config_records.values():
                config.update(record)
        return config


@contextmanager
def _older_objects_frozen() -> Iterator[None]:
    """Flower's robust strategies collect garbage after each reply they read: 0.3 s each where torch is loaded."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _OneNode:
    """As much of a Grid as choosing nodes takes."""

    def get_node_ids(self) -> list[int]:
        return [1]


def _only(update: Params, like: Params) -> dict[str, Any]:
    return {name: update[name] for name in like}


def _arrays(params: Params) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in params.items()})


def _reply(local: Params, result: Result) -> Message:
    """The metrics a stock strategy reads: its weight, and the loss that QFedAvg goes by."""
    metrics = MetricRecord(
        {"num-examples": result.num_examples, "train_loss": result.metrics.get("loss", 0.0)}
    )
    offer = Message(RecordDict(), dst_node_id=1, message_type=MessageType.TRAIN)
    return Message(RecordDict({"arrays": _arrays(local), "metrics": metrics}), reply_to=offer)


def _capture(strategy: Any) -> State:
    """The strategy's arrays (moments, current model), flat: `attribute/key` or `attribute#index`."""
    state: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        if isinstance(value, dict):
            state |= {f"{name}/{key}": each for key, each in value.items() if isinstance(each, np.ndarray)}
        elif isinstance(value, list):
            state |= {f"{name}#{i}": each for i, each in enumerate(value) if isinstance(each, np.ndarray)}
        elif isinstance(value, np.ndarray):
            state[name] = value
    return state


def _restore(strategy: Any, state: State) -> None:
    """Put back what `_capture` took."""
    dicts: dict[str, dict[str, Any]] = {}
    lists: dict[str, list[tuple[int, Any]]] = {}
    for name, value in state.items():
        if "/" in name:
            attribute, _, key = name.partition("/")
            dicts.setdefault(attribute, {})[key] = value
        elif "#" in name:
            attribute, _, index = name.partition("#")
            lists.setdefault(attribute, []).append((int(index), value))
        else:
            setattr(strategy, name, value)
    for attribute, values in dicts.items():
        setattr(strategy, attribute, values)
    for attribute, items in lists.items():
        setattr(strategy, attribute, [value for _, value in sorted(items, key=lambda item: item[0])])
