"""The server app: round after round on any Grid, each committed in one durable transaction."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol

from fedlite.apps.cohort import Courier, Party, Stopped, Tally, manifest_of
from fedlite.apps.settings import JobSettings
from fedlite.apps.stock import stock_rule
from fedlite.compress.codec import codec_by_name
from fedlite.errors import QuorumError
from fedlite.flower import Grid
from fedlite.ledger.store import Ledger
from fedlite.rounds import (
    Combined,
    Model,
    Pruning,
    Rule,
    Streaming,
    begin,
    close,
    from_blobs,
    sample,
    to_blobs,
)
from fedlite.strategies.named import strategy_by_name
from fedlite.tensors import size_bytes
from fedlite.types import Params
from fedlite.uplink import Receiver

_WAIT_SECONDS = 0.2
KEEP_STEPS = 16

Evaluate = Callable[[Params], Mapping[str, float]]


class Watcher(Protocol):
    """Who is told how the run goes: a results folder, a live table."""

    def status(self, text: str) -> None:
        """What the server is waiting for."""

    def row(self, row: Mapping[str, Any]) -> None:
        """One committed round."""


@dataclass(frozen=True)
class Job:
    """A federated job, ready to run.

    `initial` makes (ModelSpec as JSON, first parameters) and is called for a new run only, so that a server that
    resumes does not load torch for it; `evaluate` is None where there is no test set. A `patient` server runs a
    round again when too few answer; otherwise that ends the run with QuorumError. `shut_out` names the nodes that
    no round waits for any more.
    """

    settings: JobSettings
    initial: Callable[[], tuple[str, Params]]
    evaluate: Evaluate | None
    receiver: Receiver
    sign: Callable[[bytes], bytes]
    who: Callable[[int], Party]
    patient: bool = False
    shut_out: Callable[[], Collection[int]] = frozenset


def run(grid: Grid, job: Job, ledger: Ledger, watcher: Watcher, stop: Event) -> Model:
    """Run until settings.rounds rounds are committed, or until `stop` is set; returns the last committed model.

    Picks up after the ledger's last committed round. A round that misses its quorum is run again: clients that
    have already answered send the same bytes.
    """
    settings = job.settings
    rule = make_rule(settings)
    pruning = Pruning(settings.sparsity, settings.prune_round)
    model = _resume(job, ledger, rule, pruning)
    courier = Courier(
        grid=grid,
        ledger=ledger,
        receiver=job.receiver,
        sign=job.sign,
        who=job.who,
        codec=codec_by_name(settings.uplink_codec),
        max_examples=settings.max_examples,
        stop=stop,
        shut_out=job.shut_out,
    )
    while model.round_num < settings.rounds and not stop.is_set():
        try:
            model = _round(grid, job, ledger, rule, pruning, courier, model, watcher)
        except QuorumError as error:
            if not job.patient:
                raise
            watcher.status(f"round {model.round_num + 1} is run again: {error}")
            stop.wait(1.0)
        except Stopped:
            break
    return model


def make_rule(settings: JobSettings) -> Rule:
    """The rule that `--strategy` names."""
    if settings.strategy.startswith("flwr:"):
        return stock_rule(settings.strategy.removeprefix("flwr:"), settings.seed)
    return Streaming(strategy_by_name(settings.strategy))


def _resume(job: Job, ledger: Ledger, rule: Rule, pruning: Pruning) -> Model:
    latest = ledger.latest()
    if latest is not None:
        return from_blobs(latest.state)
    model = begin(*job.initial(), rule, pruning)
    ledger.commit(0, state=to_blobs(model), step=None, counted=[], metrics={})
    return model


def _round(
    grid: Grid,
    job: Job,
    ledger: Ledger,
    rule: Rule,
    pruning: Pruning,
    courier: Courier,
    model: Model,
    watcher: Watcher,
) -> Model:
    settings, clock = job.settings, _Clock()
    nodes = _wait_for_nodes(grid, settings, model.round_num + 1, watcher, courier.stop)
    size = settings.cohort or len(nodes)
    chosen = sample(nodes, round(size * settings.over_selection), settings.seed, model.round_num + 1)
    manifest = manifest_of(model, ledger.run_id, _fields(job, rule, model))
    clock.lap("configure")
    results, tally = courier.results(
        manifest,
        model,
        chosen,
        min(size, len(chosen)),
        settings.quorum,
        clock.start + settings.deadline_seconds,
    )
    combined = rule.combine(manifest.round_num, model.params, model.state, results)
    clock.lap("collect")
    step, after = close(model, combined, pruning, codec_by_name(settings.downlink_codec))
    clock.lap("aggregate")
    scores = _evaluate(job, after)
    clock.lap("evaluate")
    row = _row(after, combined, tally, scores, clock.laps)
    ledger.commit(
        after.round_num,
        state=to_blobs(after),
        step=step,
        counted=tally.counted,
        metrics=row,
    )
    ledger.prune_steps(KEEP_STEPS)
    clock.lap("commit")
    watcher.row({**row, "seconds": clock.laps})
    return after


def _wait_for_nodes(
    grid: Grid, settings: JobSettings, round_num: int, watcher: Watcher, stop: Event
) -> list[int]:
    wanted = max(settings.quorum, 1)
    told = -1
    while not stop.is_set():
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= wanted:
            return nodes
        if len(nodes) != told:
            told = len(nodes)
            watcher.status(f"round {round_num} waits for clients: {told} of {wanted} are there")
        stop.wait(_WAIT_SECONDS)
    raise Stopped


def _fields(job: Job, rule: Rule, model: Model) -> dict[str, object]:
    settings = job.settings
    return {
        "model": model.spec,
        "train": settings.train_settings() | dict(rule.client_settings()),
        "uplink_codec": settings.uplink_codec,
        "downlink_codec": settings.downlink_codec,
        "seed": settings.seed,
    }


def _evaluate(job: Job, model: Model) -> Mapping[str, float]:
    every, round_num = job.settings.evaluate_every, model.round_num
    due = every and (round_num % every == 0 or round_num == job.settings.rounds)
    return job.evaluate(model.params) if due and job.evaluate is not None else {}


def _row(
    model: Model, combined: Combined, tally: Tally, scores: Mapping[str, float], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """One round as it is recorded: see fedlite.results."""
    up = [client["bytes_up"] for client in tally.clients.values() if client["bytes_up"]]
    metrics = combined.metrics  # of what clients say only this: another name could pass for one of ours
    row: dict[str, Any] = {
        "round": model.round_num,
        **scores,
        "train_loss": metrics.get("loss"),
        "train_accuracy": metrics.get("accuracy"),
        "prequential": metrics.get("prequential"),
        "num_clients": len(tally.counted),
        "clients": tally.clients,
        "dropped": tally.dropped,
        "uplink_ratio": round(size_bytes(model.params) / (sum(up) / len(up)), 3) if up else None,
        "seconds": dict(seconds),
    }
    return {key: value for key, value in row.items() if value is not None}


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self.last = round(now - self.last, 4), now
