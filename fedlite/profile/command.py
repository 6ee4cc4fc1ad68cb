"""python -m fedlite.profile --search: candidates, measured here, ranked, and the best one written out."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedlite.config import parse_shape
from fedlite.errors import SettingsError, StorageError
from fedlite.models.bridge import initial_params
from fedlite.models.registry import ModelSpec, Option, skeleton
from fedlite.models.saved import save_model
from fedlite.models.words import spec_of_text
from fedlite.profile import budget, counts, latency, memory
from fedlite.profile.cache import REMEDY, Cache
from fedlite.profile.candidates import Candidate, relatives
from fedlite.profile.config import Config
from fedlite.profile.contest import Contest, open_contest, open_samples
from fedlite.profile.device import describe, key_of
from fedlite.profile.examples import Example, example_of
from fedlite.profile.figures import Setup, inference_of
from fedlite.profile.search import NOT_ASKED, Standing, halve, within
from fedlite.profile.unknown import Unknown


def search(config: Config) -> int:
    """Search, print the table, write the winner and `candidates.json` into config.out.

    The winner is `winner.json`, its spec; `winner.safetensors`, with fresh weights; and `student.toml`, which begins
    with that file.
    """
    import torch

    torch.set_num_threads(config.threads)
    limits, ratios = budget.parse_budget(config.budget), _ratios(config.ratios)
    samples = open_samples(config) if config.data else None
    defaults: dict[str, Option] = {}
    if samples is not None:
        defaults = {"input_shape": tuple(samples.x.shape[1:]), "num_classes": samples.num_classes}
    if config.input:
        defaults["input_shape"] = parse_shape(config.input)
    found, missing = relatives(spec_of_text(config.search, defaults), ratios)
    if missing:
        _say(config, f"candidates: {missing}")
    cache = Cache(config.out, key_of(describe()))
    setup = Setup(config.batch, config.train_batch, config.threads, config.seconds)
    with memory.bench(batch=setup.batch, train_batch=setup.train_batch, threads=setup.threads) as held:
        figures = _Figures(setup, parse_shape(config.input) if config.input else (), cache, held)
        ordered = sorted(found, key=figures.size)
        standing = within(ordered, limits, figures.measure, config.candidates if config.data else 1)
    fitting = [each for each in standing if not each.misses]
    if samples is None:
        _say(config, "no --data: ranked by multiply-adds, a stand-in for accuracy and no measure of it")
    else:
        fitting = _contest(config, cache, open_contest(config, samples), fitting)
    _finish(config, limits, fitting + [each for each in standing if each.misses])
    return 0


class _Figures:
    """Figures of candidates on this device, kept in the cache."""

    def __init__(self, setup: Setup, shape: tuple[int, ...], cache: Cache, held: memory.Measure) -> None:
        self._setup, self._shape, self._cache, self._held = setup, shape, cache, held

    def measure(self, kind: budget.Kind, candidate: Candidate) -> float | Unknown:
        """A candidate's figure of this kind."""
        spec = candidate.spec
        question = [json.loads(spec.to_json()), self._shape, vars(self._setup)]
        return self._cache.get(kind.name, question, lambda: self._fresh(kind.name, spec))

    def size(self, candidate: Candidate) -> tuple[float, ...]:
        """To sort by: more multiply-adds first, then more parameters."""
        found = (self.measure(budget.KINDS[name], candidate) for name in ("macs", "parameters"))
        return tuple(-each for each in found if not isinstance(each, Unknown))  # both can always be counted

    def _fresh(self, name: str, spec: ModelSpec) -> float | Unknown:
        example = _example(spec, self._shape)
        if name in ("parameters", "macs"):
            return float(getattr(_counts(spec, example), name))
        if name == "size":
            return _real(counts.int8_bytes(spec))
        if name == "size_float32":
            return float(counts.float32_bytes(spec))
        if name == "latency":
            call = inference_of(spec, example, self._setup.batch)
            return latency.measure(call, seconds=self._setup.seconds).p50_seconds
        return _real(self._held(spec, 32, example).training)


@lru_cache(8)
def _example(spec: ModelSpec, shape: tuple[int, ...]) -> Example:
    return example_of(spec, shape)


@lru_cache(8)
def _counts(spec: ModelSpec, example: Example) -> counts.Counts:
    return counts.count(spec, counts.shapes(spec), example)


def _real(value: int | Unknown) -> float | Unknown:
    return value if isinstance(value, Unknown) else float(value)


def _contest(config: Config, cache: Cache, contest: Contest, fitting: Sequence[Standing]) -> list[Standing]:
    """Those that fit, trained against each other: best first."""
    setting = [config.data, config.samples, config.learning_rate, config.seed]

    def score(candidate: Candidate, epochs: int) -> float:
        question = [json.loads(candidate.spec.to_json()), setting, epochs]
        value = cache.get("accuracy", question, lambda: contest.score(candidate, epochs))
        assert not isinstance(value, Unknown)
        _say(config, f"{candidate.label}: {value:.3f} after {epochs} epochs")
        return value

    entering = fitting[: config.candidates]
    if len(fitting) > len(entering):
        _say(
            config, f"of {len(fitting)} that fit, the {len(entering)} with the most multiply-adds are trained"
        )
    return [*halve(entering, score), *fitting[config.candidates :]]


def _finish(config: Config, limits: Sequence[budget.Limit], ranked: Sequence[Standing]) -> None:
    winner = ranked[0].candidate
    result = {
        "winner": json.loads(winner.spec.to_json()),
        "label": winner.label,
        "ranked_by": "accuracy" if config.data else "macs",
        "budget": {limit.kind.name: limit.most for limit in limits},
        "figures": dict(ranked[0].figures),
        "accuracy": {str(epochs): value for epochs, value in ranked[0].accuracy.items()},
        "candidates": len(ranked),
        "fitting": sum(not each.misses for each in ranked),
        "device": dict(describe()),
        "seed": config.seed,
    }
    table = [
        {"label": each.candidate.label, "spec": json.loads(each.candidate.spec.to_json()), "misses": each.misses,
         "figures": dict(each.figures), "accuracy": {str(k): v for k, v in each.accuracy.items()}}
        for each in ranked
    ]  # fmt: skip
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        _write(config.out / "winner.json", winner.spec.to_json() + "\n")
        fresh = initial_params(skeleton(winner.spec), 0)
        save_model(config.out / "winner.safetensors", winner.spec.to_json(), 32, fresh)
        _write(config.out / "student.toml", _recipe(config))
        _write(config.out / "candidates.json", json.dumps(table, indent=1) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {config.out}: {error.strerror}", remedy=REMEDY) from error
    if not config.json:
        _print_table(limits, ranked)
    print(json.dumps(result))


def _recipe(config: Config) -> str:
    """A student's recipe that begins with the winner, which lies beside it."""
    return f'# the best of --search {config.search} within {config.budget}\nstart = "winner.safetensors"\n'


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, "utf-8")
    part.replace(path)


def _print_table(limits: Sequence[budget.Limit], ranked: Sequence[Standing]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = [each for each in ranked if each.misses != NOT_ASKED]
    table = Table("candidate")
    for limit in limits:
        table.add_column(limit.kind.name, justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("within the budget")
    for each in shown:
        figures = [_cell(limit, each) for limit in limits]
        best = max(each.accuracy, default=0)
        accuracy = f"{each.accuracy[best]:.3f} ({best})" if best else "–"
        table.add_row(each.candidate.label, *figures, accuracy, each.misses or "yes")
    Console(highlight=False, markup=False, emoji=False).print(table)
    if len(shown) < len(ranked):
        print(f"{len(ranked) - len(shown)} smaller candidates were {NOT_ASKED}")


def _cell(limit: budget.Limit, standing: Standing) -> str:
    value: Any = standing.figures.get(limit.kind.name)
    return "–" if value is None else limit.kind.text(value)


def _ratios(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingsError(f"--ratios is {text!r}; numbers in [0, 1) wanted, as 0,0.5") from error


def _say(config: Config, text: str) -> None:
    if not config.json:
        print(text, flush=True)
