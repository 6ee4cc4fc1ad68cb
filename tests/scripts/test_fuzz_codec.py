"""scripts/bench/fuzz_codec.py: a short attack on every reader, and what it finds if there is something to find."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from fedlite.compress.codec import CHECK, HEADER
from fedlite.compress.presets import codec_by_name
from fedlite.errors import CodecError
from scripts.bench.fuzz import memory, targets
from scripts.bench.fuzz.attack import Tally, attack, attack_chunks, chunks_for, spoilt
from scripts.bench.fuzz.mutate import mutate

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/bench/fuzz_codec.py"


@pytest.fixture(scope="module")
def small() -> list[targets.Target]:
    return targets.small_targets()


def test_every_reader_gives_values_or_a_typed_error(small: list[targets.Target]) -> None:
    """Warnings are errors, so an overflow is found too."""
    tally = attack_chunks(small, range(len(small)), 1, lambda chunk: None, most=10)
    assert tally.examples == {}
    assert (tally.untyped, tally.accepted) == (0, 0)
    assert tally.typed > 0.4 * tally.mutations
    assert tally.decoded > 0.02 * tally.mutations  # parsers are reached, some of what is changed is sound


def test_honest_payloads_are_read(small: list[targets.Target]) -> None:
    for target in small:
        assert target.payloads
    for target in small:
        if target.name.startswith("codec "):
            assert all(np.isfinite(value).all() for value in target.read(target.payloads[0]))


def test_the_same_seed_spoils_alike(small: list[targets.Target]) -> None:
    target = next(each for each in small if each.name == "codec step+ans")
    again = [[spoilt(Random(7), target) for _ in range(3)] for _ in range(2)]
    assert again[0] == again[1]


def test_check_values_are_mended(small: list[targets.Target]) -> None:
    """A payload of a changed body is refused by its check value, and by what is inside if that is made right."""
    target = next(each for each in small if each.name == "codec float32+zstd")
    changed = bytearray(target.payloads[0])
    changed[HEADER.size + 12] ^= 1
    with pytest.raises(CodecError, match="damaged"):
        target.read(bytes(changed))
    mended = target.mend(Random(1), bytes(changed))
    assert mended[: -CHECK.size] == bytes(changed)[: -CHECK.size]
    assert mended != bytes(changed)


@pytest.mark.parametrize("size", [0, 1, 3, 200])
def test_mutations_take_payloads_of_any_size(size: int) -> None:
    payload = bytes(range(size))
    found = {mutate(Random(seed), payload, [payload, b"other"]) for seed in range(300)}
    assert len(found) > 20
    assert max(map(len, found)) < 100_000


def test_surprises_are_counted() -> None:
    def broken(payload: bytes) -> Iterator[Any]:
        if len(payload) % 3 == 0:
            raise IndexError("nobody expects this")
        return iter([np.array([np.nan])] if len(payload) % 3 == 1 else [])

    tally, rng = Tally(), Random(0)
    target = targets.Target("broken", [bytes(9)], broken, sealed=True)
    for _ in range(60):
        attack(rng, target, tally)
    assert tally.untyped > 10
    assert tally.accepted > 3
    assert {each.split(":")[0] for each in tally.examples} == {"broken", "accepted"}


def test_chunks_hold_at_least_what_is_asked() -> None:
    # one round of targets is 3 + 1 + 6 payloads: 25 of them need two rounds, 3 and 1 and 6 more
    assert [chunks_for(count, [3, 1, 6]) for count in (1, 3, 4, 5, 10, 25)] == [1, 1, 2, 3, 3, 9]


def test_bombs_are_refused_before_memory_is_taken() -> None:
    found = memory.Memory(Tally())
    memory._bombs(found)
    assert found.refused == found.bombs >= 16
    assert found.bomb_bytes < 1_000_000  # of 4 GiB that they stand for


@pytest.mark.parametrize("text", ["int8", "step:0.05+ans", "int8+ans"])
def test_reading_takes_at_most_twice_what_it_makes(text: str) -> None:
    target = memory.large_target(text)
    codec, like = codec_by_name(text), targets.model(targets.LARGE)
    for payload in target.payloads:
        tracemalloc.start()
        read = codec.decode(payload, like)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 2 * (sum(value.nbytes for value in read.values()) + len(payload))


def test_the_program_itself() -> None:
    """A few payloads, one process: the keys that are promised are there."""
    command = [
        sys.executable,
        str(SCRIPT),
        "--mutations",
        "300",
        "--large",
        "1",
        "--workers",
        "1",
        "--codecs",
        "small",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["mutations"] >= 300
    assert found["crashes"] == found["untyped"] == found["accepted"] == 0
    assert 0 < found["rss_ratio"] <= 2
    assert found["bombs"] == found["bombs_refused"]
