"""The two commands: `bench` measures codecs, `list` explains them."""

import json
import platform
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlite.codec.figures import Figures, measure
from fedlite.codec.parts import PartNote, filters, presets, serializers, squeezers
from fedlite.compress.presets import PRESETS, codec_by_name
from fedlite.config import option, parse, record
from fedlite.errors import SettingsError


@dataclass(frozen=True)
class BenchConfig:
    """What to code, and with what."""

    model: str = option("cnn", "the model, with options as mobilenet_v2:width=0.5,input_shape=1x28x28")
    dataset: str = option(
        "", "training data: digits, fashion_mnist, a path …; by default what suits the model", metavar="NAME"
    )
    data_dir: Path | None = option(
        None, "folder with the data sets; default: $FEDLITE_DATA. digits needs none", metavar="DIR"
    )
    codec: tuple[str, ...] = option(
        (), "codecs to measure: presets, or parts as step:2+ans; by default every preset", metavar="TEXT"
    )
    samples: int = option(200, "of the client whose update is coded")
    seconds: float = option(0.5, "how long to time each codec, at least")
    seed: int = option(0, "of samples, weights and random rounding")
    json: bool = option(False, "one JSON object instead of a table")

    def __post_init__(self) -> None:
        """Check what no other module checks."""
        if self.samples < 1:
            raise SettingsError(f"samples is {self.samples}; at least 1 wanted")
        if not 0 <= self.seconds <= 3600:
            raise SettingsError(f"seconds is {self.seconds}; 0 to 3600 wanted")


@dataclass(frozen=True)
class ListConfig:
    """How to list."""

    json: bool = option(False, "one JSON object instead of text")


def bench(argv: Sequence[str], description: str) -> int:
    """Every codec asked for, in turn, on one update."""
    config = parse(BenchConfig, argv, prog="python -m fedlite.codec bench", description=description)
    codecs = {text: codec_by_name(text) for text in dict.fromkeys(config.codec or PRESETS)}

    from fedlite.codec.example import make

    example = make(config.model, config.dataset, config.data_dir, config.samples, config.seed)
    _say(f"{example.title}: {example.parameters} parameters; trained on {example.trained_on}")
    found = []
    for text, codec in codecs.items():
        found.append(measure(text, codec, example.update, seconds=config.seconds, seed=config.seed))
        if not config.json:
            _print_row(found[-1], max(map(len, codecs)), first=len(found) == 1)
    if config.json:
        print(json.dumps(_result(config, found, example.title, example.parameters, example.trained_on)))
    else:
        print(
            "\ncosine: how much of the update's direction is kept, 1 is all. error: |read - update| / |update|,"
        )
        print(
            "before error feedback, which sends what is missing with the next update. MB/s: of float32, one core."
        )
    return 0


def listed(argv: Sequence[str]) -> int:
    """Presets and parts, with what each is for."""
    config = parse(
        ListConfig, argv, prog="python -m fedlite.codec list", description="Presets and parts of codecs."
    )
    groups = {
        "presets": presets(), "filters": filters(), "serializers": serializers(), "compressors": squeezers()
    }  # fmt: skip
    if config.json:
        print(json.dumps({name: [each._asdict() for each in notes] for name, notes in groups.items()}))
        return 0
    print("A codec is a preset's name, or filter+…+serializer+compressor+…; numbers follow behind colons,")
    print("as in topk:0.01+int8+zstd:3. Give it to --uplink-codec, --downlink-codec or `bench --codec`.")
    for name, notes in groups.items():
        print(f"\n{name}")
        _print_notes(notes)
    return 0


def _print_row(row: Figures, width: int, *, first: bool) -> None:
    if first:
        heads = f"{'bytes':>10}{'ratio':>8}{'cosine':>9}{'error':>9}{'encode':>8}{'decode':>8}"
        print(f"{'codec':<{width}}{heads}  MB/s", flush=True)
    print(
        f"{row.codec:<{width}}{row.payload_bytes:>10}{row.ratio:>8.1f}{row.cosine:>9.4f}{row.error:>9.4f}"
        f"{row.encode_mb_s:>8.0f}{row.decode_mb_s:>8.0f}  {row.parts if row.parts != row.codec else ''}".rstrip(),
        flush=True,
    )


def _print_notes(notes: Sequence[PartNote]) -> None:
    for note in notes:
        print(f"  {note.usage}")
        if note.text:
            print(textwrap.fill(note.text, 100, initial_indent="      ", subsequent_indent="      "))


def _result(
    config: BenchConfig, found: Sequence[Figures], title: str, parameters: int, trained_on: str
) -> dict[str, object]:
    return {
        "model": title,
        "parameters": parameters,
        "trained_on": trained_on,
        "codecs": [each._asdict() for each in found],
        "settings": record(config),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
