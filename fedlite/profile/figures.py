"""All figures of one model on this device, as a record for programs and a table for people."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedlite.profile import counts, energy, latency, memory
from fedlite.profile.device import describe
from fedlite.profile.examples import Example, example_of
from fedlite.profile.onnx_source import runner
from fedlite.profile.source import Subject
from fedlite.profile.unknown import Unknown
from fedlite.results.units import byte_text, seconds_text, three

if TYPE_CHECKING:
    from torch import nn

    from fedlite.models.registry import ModelSpec

ENERGY_SECONDS = 3.0  # how long the work lasts whose energy is counted: counters move in milliseconds
Figure = int | float | Unknown


@dataclass(frozen=True)
class Setup:
    """How figures are measured: examples at a time in inference and in training, and threads."""

    batch: int = 1
    train_batch: int = 16
    threads: int = 1
    seconds: float = latency.SECONDS


@dataclass(frozen=True)
class Figures:
    """A model's figures on this device; `Unknown` where one cannot be had here."""

    subject: Subject
    example: Example
    setup: Setup
    counts: counts.Counts
    bytes_float32: int
    bytes_int8: int | Unknown
    memory: memory.Memory
    latency: latency.Latency | Unknown
    energy: energy.Energy | Unknown
    inferences: int  # done while the energy was counted


def measure(subject: Subject, setup: Setup, input_shape: tuple[int, ...] = ()) -> Figures:
    """Count and measure; the process's threads are set to the setup's."""
    import torch

    torch.set_num_threads(setup.threads)
    spec, example = subject.spec, example_of(subject.spec, input_shape)
    call = _inference(subject, example, setup)
    time, joules, inferences = _timed(call, setup)
    with memory.bench(batch=setup.batch, train_batch=setup.train_batch, threads=setup.threads) as taken:
        held = taken(spec, subject.bits, example, subject.exported)
    return Figures(
        subject=subject,
        example=example,
        setup=setup,
        counts=counts.count(spec, subject.values, example),
        bytes_float32=counts.float32_bytes(spec),
        bytes_int8=counts.int8_bytes(spec),
        memory=held,
        latency=time,
        energy=joules,
        inferences=inferences,
    )


def inference_of(spec: "ModelSpec", example: Example, batch: int) -> Callable[[], object]:
    """A call that runs a batch of `batch` examples through the float32 network of a spec."""
    from fedlite.models.registry import build

    return _runner(build(spec), example, batch)


def _inference(subject: Subject, example: Example, setup: Setup) -> Callable[[], object] | Unknown:
    from fedlite.compress import quantize
    from fedlite.models.bridge import load_params
    from fedlite.models.registry import build

    if subject.exported:
        return runner(subject.exported, example, setup.batch, setup.threads)
    if subject.integer:
        return Unknown(
            "fedlite's integer model is exact and not fast; export it (python -m fedlite.export) and time that file"
        )
    net = quantize.at(build(subject.spec), subject.bits)
    load_params(net, dict(subject.values))
    return _runner(net, example, setup.batch)


def _runner(net: "nn.Module", example: Example, batch: int) -> Callable[[], object]:
    import torch

    net.eval()
    x = torch.from_numpy(example.batch(batch))

    def call() -> object:
        with torch.inference_mode():
            return net(x)

    return call


def _timed(
    call: Callable[[], object] | Unknown, setup: Setup
) -> tuple[latency.Latency | Unknown, energy.Energy | Unknown, int]:
    if isinstance(call, Unknown):
        return call, call, 0
    time = latency.measure(call, seconds=setup.seconds)
    meter = energy.find_meter()
    if isinstance(meter, Unknown):
        return time, meter, 0
    inferences = max(1, round(ENERGY_SECONDS / time.p50_seconds))
    return time, energy.measure(meter, lambda: [call() for _ in range(inferences)]), inferences


def record(figures: Figures) -> dict[str, Any]:
    """Plain JSON values; a figure that cannot be had is null, and `not_measurable` says why."""
    values = {name: value for name, value, _, _ in _rows(figures)}
    return {
        "model": figures.subject.title,
        "spec": figures.subject.spec.to_json(),
        "bits": figures.subject.bits,
        "input": list(figures.example.shape),
        "batch": figures.setup.batch,
        "train_batch": figures.setup.train_batch,
        "threads": figures.setup.threads,
        "device": dict(describe()),
        **{name: None if isinstance(value, Unknown) else value for name, value in values.items()},
        "latency_repeats": 0 if isinstance(figures.latency, Unknown) else figures.latency.repeats,
        "energy_source": None if isinstance(figures.energy, Unknown) else figures.energy.source,
        "not_measurable": {k: v.reason for k, v in values.items() if isinstance(v, Unknown)},
        "layers": [vars(each) for each in figures.counts.layers],
    }


def print_table(figures: Figures, *, layers: bool = False) -> None:
    """The figures for people, on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    shape = "x".join(map(str, figures.example.shape))
    table = Table(title=f"{figures.subject.title}, input {shape}", title_justify="left")
    for name, right in (("figure", False), ("value", True), ("of", False)):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for name, value, text, note in _rows(figures):
        if isinstance(value, Unknown) and name != "power_watts":  # whose reason is the energy's
            table.add_row(name, "–", f"not measurable here: {value.reason}")
        elif not isinstance(value, Unknown):
            table.add_row(name, text(value), note)
    console.print(table)
    if layers:
        console.print(_layer_table(figures))


def _layer_table(figures: Figures) -> Any:
    from rich.table import Table

    table = Table("layer", "kind")
    for name in ("parameters", "non-zeros", "MACs", "share"):
        table.add_column(name, justify="right")
    for each in figures.counts.layers:
        share = each.macs / max(1, figures.counts.macs)
        row = (f"{each.parameters:,}", f"{each.nonzeros:,}", f"{each.macs:,}", f"{share:.1%}")
        table.add_row(each.name, each.kind, *row)
    return table


def _rows(figures: Figures) -> list[tuple[str, Figure, Callable[[Any], str], str]]:
    """(name, value, how people read it, what it is of)."""
    setup, counted = figures.setup, figures.counts
    time, joules = figures.latency, figures.energy
    times = _of(time, lambda t: t.p50_seconds), _of(time, lambda t: t.p95_seconds)
    repeats = "" if isinstance(time, Unknown) else f", {time.repeats} runs"
    each = f"a batch of {setup.batch}, {_threads(setup.threads)}{repeats}"
    train = f"a batch of {setup.train_batch}"
    per_inference = _of(joules, lambda e: e.joules / figures.inferences)
    scope = "" if isinstance(joules, Unknown) else f"{each}; {joules.source}: {joules.scope}, all that it did"
    file, live = figures.subject.file_bytes, counted.nonzeros
    share = "" if isinstance(live, Unknown) else f"{live / max(1, counted.parameters):.1%} of them"
    return [
        ("parameters", counted.parameters, _whole, "learned values"),
        ("nonzeros", counted.nonzeros, _whole, share),
        *([("bytes_file", file, byte_text, "the file given")] if file is not None else []),
        ("bytes_float32", figures.bytes_float32, byte_text, "as model.safetensors"),
        ("bytes_int8", figures.bytes_int8, byte_text, "as model.int8.safetensors"),
        ("macs", counted.macs, _whole, "one example, forward"),
        ("flops_forward", counted.flops, _whole, "one example, forward: 2 × MACs"),
        ("flops_training", counts.TRAINING * counted.flops, _whole, "one example: 3 × forward"),
        ("bytes_activation", figures.memory.activation, byte_text, f"peak of inference, a batch of {setup.batch}"),
        ("bytes_saved", figures.memory.saved, byte_text, f"kept for the backward pass, {train}"),
        ("bytes_training", figures.memory.training, byte_text, f"peak of training above the loaded process, {train}"),
        ("latency_p50_seconds", times[0], seconds_text, each),
        ("latency_p95_seconds", times[1], seconds_text, each),
        ("energy_joules", per_inference, lambda joules: f"{three(1000 * joules)} mJ", scope),
        ("power_watts", _of(joules, lambda e: e.watts), lambda watts: f"{three(watts)} W", scope),
    ]  # fmt: skip


def _of(value: Any, take: Callable[[Any], float]) -> float | Unknown:
    return value if isinstance(value, Unknown) else take(value)


def _whole(value: int) -> str:
    return f"{value:,}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"
