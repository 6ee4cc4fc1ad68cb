"""python -m fedlite.export: read, write, run, compare, say."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from fedlite.export import runtimes
from fedlite.export.config import Config
from fedlite.export.files import aside
from fedlite.export.parity import AGREEMENT, Report, compare

OK, FAILED = 0, 1


def export(model: Path, config: Config) -> int:
    """Export one model and print the report; FAILED where the file does not answer as the model does.

    Then nothing is written, and a file that was there before stays.
    """
    entry = runtimes.entry_of(config.runtime)
    runtimes.python_of(config.runtime)
    from fedlite.export.source import open_examples, open_model

    examples = open_examples(config)
    integer = open_model(model, examples.calibration, config.observer)
    out = config.out or model.with_suffix(entry.suffix)
    with aside(out) as place:
        runtimes.load(config.runtime).write(integer, place, examples.calibration)
        report = compare(
            config.runtime,
            place,
            integer,
            examples.x,
            examples.y,
            threads=config.threads,
            seconds=config.seconds,
        )
        if report.passes:
            os.replace(place, out)
    report = dataclasses.replace(report, file=str(out))
    _say(report, config.json)
    return OK if report.passes else FAILED


def record(report: Report) -> dict[str, Any]:
    """The report as plain JSON values."""
    return {**dataclasses.asdict(report), "passes": report.passes}


def _say(report: Report, as_json: bool) -> None:
    if not as_json:
        for name, text in rows(report):
            print(f"  {name:<12}  {text}")
    print(json.dumps(record(report)), flush=True)


def rows(report: Report) -> list[tuple[str, str]]:
    """The report for people."""
    smaller = report.float32_bytes / report.size_bytes
    share = f"{report.agreement:.2%} of {report.examples} held-out examples"
    file = report.file if report.passes else f"{report.file} NOT WRITTEN"
    told = [
        ("file", f"{file}, {report.size_bytes:,} bytes, {smaller:.2f}x smaller than float32"),
        ("computes", report.computes),
        ("agreement", f"{share}: {'as trained' if report.passes else f'FAILED, {AGREEMENT:.0%} wanted'}"),
        ("difference", f"{report.max_difference:.3g} at most, of logits up to {report.largest_logit:.3g}"),
        ("latency", f"p50 {report.p50_ms:.3f} ms, p95 {report.p95_ms:.3f} ms, {report.threads} thread(s)"),
    ]
    if report.accuracy is not None:
        told.insert(3, ("accuracy", f"{report.accuracy:.2%}; {report.accuracy_trained:.2%} in torch"))
    if report.resident_bytes is not None:
        told.append(("memory", f"{report.resident_bytes / 1e6:.0f} MB resident, the runtime's own included"))
    return told
