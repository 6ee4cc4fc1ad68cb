"""One round, no network: who takes part, whose result counts, and what the next model is."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from fedlite import aggregate
from fedlite.compress.codec import Codec
from fedlite.compress.masks import pack_masks, unpack_masks
from fedlite.compress.schedule import Pruner
from fedlite.downlink import Version, advance, first
from fedlite.errors import StateError
from fedlite.seeds import generator
from fedlite.strategies.base import State, Strategy
from fedlite.tensors import apply_masks, subtract
from fedlite.types import Array, Masks, Params, Result, is_statistic

Node = TypeVar("Node")


@dataclass(frozen=True)
class Model:
    """Everything a run must not lose between rounds.

    `spec` is the ModelSpec as JSON, `params` the server's exact model, pruned by `masks`, `held` what clients hold of
    it (see fedlite.downlink), `state` the strategy's. `held.number` is the number of committed rounds. `held.masks`
    are `masks`, or none while the next round looks where pruned weights would go. `origin` says how devices can make
    version 0 themselves.
    """

    spec: str
    params: Params
    held: Version
    state: State = field(default_factory=dict)
    masks: Masks = field(default_factory=dict)
    origin: str = ""

    @property
    def round_num(self) -> int:
        """The last committed round; 0 before the first."""
        return self.held.number


class Rule(Protocol):
    """How results become the next parameters: ours, or a stock Flower strategy's."""

    def init(self, params: Params) -> State:
        """The state before the first round."""

    def client_settings(self) -> Mapping[str, float]:
        """Fields of TrainSettings to override on the clients."""

    def combine(self, round_num: int, params: Params, state: State, results: Iterable[Result]) -> "Combined":
        """Consume results as they come; `round_num` counts from 1. QuorumError when there are none."""


@dataclass(frozen=True)
class Combined:
    """A round's outcome: the next exact parameters, and the clients' mean metrics."""

    params: Params
    state: State
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Streaming:
    """A fedlite strategy over the streaming mean."""

    strategy: Strategy

    def init(self, params: Params) -> State:
        """The strategy's."""
        return self.strategy.init(params)

    def client_settings(self) -> Mapping[str, float]:
        """The strategy's."""
        return self.strategy.client_settings()

    def combine(self, round_num: int, params: Params, state: State, results: Iterable[Result]) -> Combined:
        """Mean of the results, then the strategy's step. (McMahan 2017, Algorithm 1)"""
        total = aggregate.start(params)
        for result in results:
            total = aggregate.add(total, result)
        return self.conclude(params, state, total)

    def conclude(self, params: Params, state: State, total: aggregate.Total) -> Combined:
        """The strategy's step with the mean of what was added."""
        after, state = self.strategy.step(params, aggregate.finish(total), state)
        return Combined(after, state, aggregate.mean_metrics(total))


def sample(available: Sequence[Node], size: int, seed: int, round_num: int) -> list[Node]:
    """`size` of the available nodes (all, if there are fewer), without replacement, in the order drawn."""
    rng = generator(seed, "cohort", round_num)
    order = rng.choice(len(available), size=min(size, len(available)), replace=False)
    return [available[index] for index in order]


def begin(spec: str, params: Params, rule: Rule, pruner: Pruner, codec: Codec, origin: str = "") -> Model:
    """The model before the first round: version 0."""
    masks = pruner.masks(0, params, {})
    pruned = apply_masks(params, masks)
    return Model(
        spec, pruned, first(pruned, _sent(pruner, 1, masks), codec), rule.init(pruned), masks, origin
    )


def close(model: Model, combined: Combined, pruner: Pruner, codec: Codec) -> tuple[bytes, Model]:
    """(downlink step, next model) once a round's results are combined.

    A pruner that wants gradients gets the square of the round's step at every coordinate. It stands for the squared
    gradient of the papers, since a round is many steps, and needs no message of its own: for that round the masks are
    left off, so clients train, and send, what is pruned as well.
    """
    round_num = model.round_num + 1
    squares = None
    if pruner.wants_gradients(round_num):
        moved = subtract(combined.params, model.params)
        squares = {name: value * value for name, value in moved.items() if not is_statistic(name)}
    masks = pruner.masks(round_num, combined.params, model.masks, squares)
    params = apply_masks(combined.params, masks)
    step, held = advance(model.held, params, _sent(pruner, round_num + 1, masks), codec)
    return step, replace(model, params=params, held=held, state=combined.state, masks=masks)


def _sent(pruner: Pruner, round_num: int, masks: Masks) -> Masks:
    """The masks that clients train with in this round."""
    return {} if pruner.wants_gradients(round_num) else masks


def to_blobs(model: Model) -> dict[str, bytes]:
    """The model as the ledger keeps it: safetensors, and the packed masks."""
    return {
        "params": _save(model.params),
        "held": _save(model.held.params),
        "masks": pack_masks(model.held.masks),
        "pruned": pack_masks(model.masks),
        "state": _save(model.state),
        "head": json.dumps([model.spec, list(model.params), model.round_num, model.origin]).encode(),
    }


def from_blobs(blobs: Mapping[str, bytes]) -> Model:
    """The model a ledger kept. StateError when it is not whole."""
    try:
        spec, names, number, origin = json.loads(blobs["head"])
        params = _load(blobs["params"], names)
        held = Version(number, _load(blobs["held"], names), unpack_masks(blobs["masks"], params))
        state, masks = load_safetensors(blobs["state"]), unpack_masks(blobs["pruned"], params)
        return Model(spec, params, held, state, masks, origin)
    except (KeyError, ValueError, SafetensorError) as error:
        raise StateError(f"the stored model is damaged: {error}") from error


def _save(arrays: Mapping[str, Array]) -> bytes:
    return save_safetensors({name: np.ascontiguousarray(value) for name, value in arrays.items()})


def _load(data: bytes, names: Sequence[str]) -> dict[str, Array]:
    """safetensors sorts by size; the model's own order is put back."""
    arrays = load_safetensors(data)
    return {name: arrays[name] for name in names}
