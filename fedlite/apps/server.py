"""The server app: round after round on any Grid, each committed in one durable transaction."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Event
from typing import Any, Protocol

from fedlite.apps.cohort import Courier, Exchange, Party, Stopped, Tally, here_now
from fedlite.apps.door import Door
from fedlite.apps.offer import Manifest
from fedlite.apps.settings import JobSettings
from fedlite.apps.stock import stock_rule
from fedlite.compress.presets import codec_by_name
from fedlite.compress.prune import prunable
from fedlite.compress.schedule import Pruner
from fedlite.downlink import origin
from fedlite.errors import QuorumError
from fedlite.flower import Grid
from fedlite.ledger.store import Ledger
from fedlite.rounds import (
    Combined,
    Model,
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
    no round waits for any more. `teacher` names the model that devices learn from beside their labels: see
    fedlite.distill.
    """

    settings: JobSettings
    initial: Callable[[], tuple[str, Params]]
    rule: Rule
    evaluate: Evaluate | None
    receiver: Receiver
    sign: Callable[[bytes], bytes]
    who: Callable[[int], Party]
    patient: bool = False
    shut_out: Callable[[], Collection[int]] = frozenset
    teacher: str = ""
    origin: Callable[[], str] = str


class Crew(Protocol):
    """Those who train: devices over a grid, or a cohort in this process."""

    def choose(self, round_num: int) -> Sequence[int]:
        """Who is asked in this round; waits until there are enough. Raises Stopped."""

    def collect(
        self, chosen: Sequence[int], manifest: Manifest, model: Model, rule: Rule
    ) -> tuple[Combined, Tally]:
        """What the rule makes of their results. Raises QuorumError if too few came, and Stopped."""


def run(grid: Grid, job: Job, ledger: Ledger, watcher: Watcher, stop: Event) -> Model:
    """`run_with` devices over a grid."""
    settings = job.settings
    door = Door(job.receiver, codec_by_name(settings.uplink_codec), settings.max_examples)
    courier = Courier(grid, ledger, door, job.sign, job.who, job.shut_out, stop)
    return run_with(OverGrid(settings, courier, watcher), job, ledger, watcher, stop)


def run_with(crew: Crew, job: Job, ledger: Ledger, watcher: Watcher, stop: Event) -> Model:
    """Run until settings.rounds rounds are committed, or until `stop` is set; returns the last committed model.

    Picks up after the ledger's last committed round. A round that misses its quorum is run again: clients that
    have already answered send the same bytes.
    """
    settings = job.settings
    course = _Course(job, crew, ledger, job.rule, watcher)
    model = course.resume()
    while model.round_num < settings.rounds and not stop.is_set():
        try:
            model = course.round(model)
        except QuorumError as error:
            if not job.patient:
                raise
            watcher.status(f"round {model.round_num + 1} is run again: {error}")
            stop.wait(1.0)
        except Stopped:
            break
    return model


def make_rule(settings: JobSettings, spec: Callable[[], str]) -> Rule:
    """The rule that `--strategy` names; FedDF's asks for the ModelSpec, and opens the public data."""
    if settings.strategy == "feddf":
        from fedlite.data.spec import open_data
        from fedlite.fusion import SERVER, Fusion

        public = open_data(settings.public, data_dir=settings.data_dir)
        return Fusion(spec(), public.x, settings.seed, replace(SERVER, bits=settings.bits))
    if settings.strategy.startswith("flwr:"):
        return stock_rule(settings.strategy.removeprefix("flwr:"), settings.seed)
    return Streaming(strategy_by_name(settings.strategy))


@dataclass(frozen=True)
class OverGrid:
    """The crew of a grid's nodes: offers out, reports in."""

    settings: JobSettings
    courier: Courier
    watcher: Watcher

    def choose(self, round_num: int) -> Sequence[int]:
        """See Crew: some of the nodes that are there."""
        nodes = self._wait_for_nodes(round_num)
        size = self.settings.cohort or len(nodes)
        return sample(nodes, round(size * self.settings.over_selection), self.settings.seed, round_num)

    def collect(
        self, chosen: Sequence[int], manifest: Manifest, model: Model, rule: Rule
    ) -> tuple[Combined, Tally]:
        """See Crew."""
        settings = self.settings
        exchange = Exchange(self.courier, manifest, model)
        deadline = time.monotonic() + settings.deadline_seconds
        with closing(
            exchange.results(chosen, wanted(settings, len(chosen)), settings.quorum, deadline)
        ) as results:
            return rule.combine(manifest.round_num, model.params, model.state, results), exchange.tally

    def _wait_for_nodes(self, round_num: int) -> Sequence[int]:
        quorum, told, courier = self.settings.quorum, -1, self.courier
        while not courier.stop.is_set():
            here, shut_out = here_now(courier.grid), set(courier.shut_out())
            nodes = here if isinstance(here, range) and not shut_out else sorted(set(here) - shut_out)
            if len(nodes) >= quorum:
                return nodes
            if len(nodes) != told:
                told = len(nodes)
                self.watcher.status(f"round {round_num} waits for clients: {told} of {quorum} are there")
            courier.stop.wait(_WAIT_SECONDS)
        raise Stopped


def wanted(settings: JobSettings, asked: int) -> int:
    """How many of the clients asked count: the cohort, or all of them."""
    return min(settings.cohort or asked, asked)


@dataclass(frozen=True)
class _Course:
    """One run on its way."""

    job: Job
    crew: Crew
    ledger: Ledger
    rule: Rule
    watcher: Watcher

    def resume(self) -> Model:
        """The last committed model, or the first, committed as round 0."""
        latest = self.ledger.latest()
        if latest is not None:
            return from_blobs(latest.state)
        spec, params = self.job.initial()
        codec = codec_by_name(self.job.settings.downlink_codec)
        model = begin(spec, params, self.rule, self._pruner(params), codec, self.job.origin())
        step = origin(model.held) if model.origin else None
        self.ledger.commit(0, state=to_blobs(model), step=step, counted=[], metrics={})
        return model

    def round(self, model: Model) -> Model:
        """The next model, committed. QuorumError and Stopped leave everything as it was."""
        settings = self.job.settings
        chosen = self.crew.choose(model.round_num + 1)
        clock = _Clock()
        combined, tally = self.crew.collect(chosen, self._manifest(model), model, self.rule)
        clock.lap("collect")
        step, after = close(
            model, combined, self._pruner(model.params), codec_by_name(settings.downlink_codec)
        )
        clock.lap("aggregate")
        scores = _evaluate(self.job, after)
        clock.lap("evaluate")
        row = _row(after, combined, tally, scores, clock.laps)
        self.ledger.commit(
            after.round_num, state=to_blobs(after), step=step, counted=tally.counted, metrics=row
        )
        clock.lap("commit")
        self.watcher.row({**row, "seconds": clock.laps})
        return after

    def _pruner(self, params: Params) -> Pruner:
        weights = sum(value.size for name, value in params.items() if prunable(name, value))
        return self.job.settings.pruner(self.job.settings.seed, max(1, weights))

    def _manifest(self, model: Model) -> Manifest:
        settings = self.job.settings
        return Manifest(
            run=self.ledger.run_id.hex(),
            round_num=model.round_num + 1,
            version=model.held.number,
            model_hash=model.held.hash.hex(),
            model=model.spec,
            train=settings.train_settings() | dict(self.rule.client_settings()),
            uplink_codec=settings.uplink_codec,
            downlink_codec=settings.downlink_codec,
            seed=settings.seed,
            origin=model.origin,
            teacher=self.job.teacher,
            uplink_budget=settings.budget,
        )


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
        "deviations": metrics.get("deviations"),
        "num_clients": tally.count,
        "clients": tally.clients,
        "dropped": tally.dropped,
        "uplink_ratio": round(size_bytes(model.params) / (sum(up) / len(up)), 3) if up else None,
        "seconds": dict(seconds),
        **tally.more,
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
