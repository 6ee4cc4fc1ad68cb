"""Payloads of an exact codec, measured at once: as long as those that are made."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fedlite.apps.payloads import Payloads, Recent
from fedlite.compress.codec import Codec
from fedlite.compress.presets import codec_by_name
from fedlite.compress.prune import magnitude_masks
from fedlite.downlink import Version, advance, first, origin
from fedlite.ledger.store import Ledger
from fedlite.types import Masks
from fedlite.virtual.merging import summed

CODEC = codec_by_name("exact")
OTHERS = ("exact:2:0.6+ans", "exact+zstd:3", "exact+bits", "exact", "exact+ans+zstd:1", "int8", "step+ans")
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "matrices": {"a": (70, 50), "b": (50,), "n.running_var": (40,), "c": (64, 16, 3, 3), "d": (10, 20)},
    "small": {"w": (10, 20), "b": (10,)},
}
ROUNDS = 12


def walk(
    ledger: Ledger, shapes: dict[str, tuple[int, ...]], cut: int, far: int, codec: Codec = CODEC
) -> Version:
    """Versions after random steps; masks change in round `cut`, weights go beyond what is exact in round `far`."""
    rng = np.random.default_rng(3)
    params = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    masks: Masks = {}
    version = first(params, masks, codec)
    state = {"model": bytes(100_000)}  # of which as many bytes of steps are kept
    ledger.commit(0, state=state, step=origin(version), counted=[], metrics={})
    for number in range(1, ROUNDS + 1):
        size = 30.0 if number == far else 10.0 ** -(1 + number % 3)
        params = {
            name: value + rng.normal(0, size, value.shape).astype(np.float32)
            for name, value in params.items()
        }
        masks = magnitude_masks(params, 0.5) if number == cut else masks
        step, version = advance(version, params, masks, codec)
        ledger.commit(number, state=state, step=step, counted=[], metrics={})
    return version


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("cut", "far"), [(0, 0), (5, 0), (ROUNDS, 0), (0, 4), (3, 9)])
@pytest.mark.parametrize("shapes", SHAPES)
def test_measured_is_as_long_as_made(tmp_path: Path, shapes: str, cut: int, far: int, threads: int) -> None:
    with Ledger.open(tmp_path / "ledger.db", {}) as ledger:
        version = walk(ledger, SHAPES[shapes], cut, far)
        made = Payloads(ledger, version, CODEC, Recent())
        measured = Payloads(ledger, version, CODEC, Recent())
        held = range(-2, ROUNDS + 1)
        measured.measure(held, partial(summed, threads=threads))
        assert {each: measured._sizes.get(each) for each in held if each > -2} == {
            each: len(made.of(each)) for each in held if each > -2
        }
        assert [measured.size(each) for each in held] == [len(made.of(each)) for each in held]
        again = Payloads(ledger, version, CODEC, measured.recent)  # some at a time, with steps as remembered
        for some in ([3, 7], [11], [0, -1, ROUNDS]):
            again.measure(some, partial(summed, threads=threads))
            assert [again.size(each) for each in some] == [len(made.of(each)) for each in some]


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_the_codec(tmp_path: Path, name: str) -> None:
    codec = codec_by_name(name)
    with Ledger.open(tmp_path / "ledger.db", {}) as ledger:
        version = walk(ledger, SHAPES["matrices"], 5, 0, codec)
        made, measured = (Payloads(ledger, version, codec, Recent()) for _ in range(2))
        measured.measure(range(ROUNDS + 1), summed)
        assert [measured.size(each) for each in range(ROUNDS)] == [
            len(made.of(each)) for each in range(ROUNDS)
        ]
