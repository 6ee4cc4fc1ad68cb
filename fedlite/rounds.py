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
from fedlite.compress.prune import magnitude_masks, pack_masks, unpack_masks
from fedlite.downlink import Version, advance
from fedlite.errors import SettingsError, StateError
from fedlite.seeds import generator
from fedlite.strategies.base import State, Strategy
from fedlite.tensors import apply_masks
from fedlite.types import Array, Masks, Params, Result

Node = TypeVar("Node")


@dataclass(frozen=True)
class Model:
    """Everything a run must not lose between rounds.

    `spec` is the ModelSpec as JSON, `params` the server's exact model, `held` what clients hold of it (see
    fedlite.downlink), `state` the strategy's. `held.number` is the number of committed rounds.
    """

    spec: str
    params: Params
    held: Version
    state: State = field(default_factory=dict)

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


@dataclass(frozen=True)
class Pruning:
    """One-shot global magnitude pruning after round `at_round`, held from then on. sparsity in [0, 1)."""

    sparsity: float
    at_round: int

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise SettingsError(f"sparsity is {self.sparsity}, 0 to below 1 wanted")
        if self.at_round < 0:
            raise SettingsError(f"prune round is {self.at_round}, at least 0 wanted")

    def masks(self, round_num: int, params: Params, held: Masks) -> Masks:
        """The masks of the model that round `round_num` produced."""
        if self.sparsity == 0 or held or round_num < self.at_round:
            return held
        return magnitude_masks(params, self.sparsity)


def sample(available: Sequence[Node], size: int, seed: int, round_num: int) -> list[Node]:
    """`size` of the available nodes (all, if there are fewer), without replacement, in the order drawn."""
    rng = generator(seed, "cohort", round_num)
    order = rng.choice(len(available), size=min(size, len(available)), replace=False)
    return [available[index] for index in order]


def begin(spec: str, params: Params, rule: Rule, pruning: Pruning) -> Model:
    """The model before the first round: version 0."""
    masks = pruning.masks(0, params, {})
    pruned = apply_masks(params, masks)
    return Model(spec, pruned, Version(0, pruned, masks), rule.init(pruned))


def close(model: Model, combined: Combined, pruning: Pruning, codec: Codec) -> tuple[bytes, Model]:
    """(downlink step, next model) once a round's results are combined."""
    masks = pruning.masks(model.round_num + 1, combined.params, model.held.masks)
    params = apply_masks(combined.params, masks)
    step, held = advance(model.held, params, masks, codec)
    return step, replace(model, params=params, held=held, state=combined.state)


def to_blobs(model: Model) -> dict[str, bytes]:
    """The model as the ledger keeps it: safetensors, and the packed masks."""
    return {
        "params": _save(model.params),
        "held": _save(model.held.params),
        "masks": pack_masks(model.held.masks),
        "state": _save(model.state),
        "head": json.dumps([model.spec, list(model.params), model.round_num]).encode(),
    }


def from_blobs(blobs: Mapping[str, bytes]) -> Model:
    """The model a ledger kept. StateError when it is not whole."""
    try:
        spec, names, number = json.loads(blobs["head"])
        params = _load(blobs["params"], names)
        held = Version(number, _load(blobs["held"], names), unpack_masks(blobs["masks"], params))
        return Model(spec, params, held, load_safetensors(blobs["state"]))
    except (KeyError, ValueError, SafetensorError) as error:
        raise StateError(f"the stored model is damaged: {error}") from error


def _save(arrays: Mapping[str, Array]) -> bytes:
    return save_safetensors({name: np.ascontiguousarray(value) for name, value in arrays.items()})


def _load(data: bytes, names: Sequence[str]) -> dict[str, Array]:
    """safetensors sorts by size; the model's own order is put back."""
    arrays = load_safetensors(data)
    return {name: arrays[name] for name in names}
