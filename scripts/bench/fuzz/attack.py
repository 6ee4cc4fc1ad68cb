"""Spoilt payloads at readers, in processes that a parent watches: what came of each."""

import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.sharedctypes import SynchronizedArray
from queue import Empty
from random import Random
from typing import Any

import numpy as np

from fedlite.errors import FedliteError
from fedlite.seeds import derive
from scripts.bench.fuzz.mutate import mutate
from scripts.bench.fuzz.targets import Target, small_targets
from scripts.bench.local import memory_bytes

HANG_SECONDS = 10.0  # one payload may take so long; then its process is ended
MEND, LIE = 0.75, 0.25  # how many have check values made right, and are made by one who knows the format


@dataclass
class Tally:
    """What came of payloads. `examples`: what went wrong, once for each place in the code, with the payload's hex."""

    mutations: int = 0
    typed: int = 0
    decoded: int = 0
    untyped: int = 0
    accepted: int = 0  # altered payloads of a sealed target that were opened
    crashes: int = 0
    hangs: int = 0
    slowest_ms: float = 0.0
    grown_mb: float = 0.0
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, other: "Tally") -> None:
        for name in ("mutations", "typed", "decoded", "untyped", "accepted", "crashes", "hangs"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.slowest_ms = max(self.slowest_ms, other.slowest_ms)
        self.grown_mb = max(self.grown_mb, other.grown_mb)
        self.examples = other.examples | self.examples


def spoilt(rng: Random, target: Target) -> bytes:
    """One payload that is not as it was written."""
    if target.lie is not None and rng.random() < LIE and (told := target.lie(rng)) is not None:
        return told
    payload = mutate(rng, rng.choice(target.payloads), target.payloads)
    return target.mend(rng, payload) if rng.random() < MEND else payload


def attack(rng: Random, target: Target, tally: Tally) -> None:
    """One payload."""
    payload = spoilt(rng, target)
    tally.mutations += 1
    begin = time.perf_counter()
    try:
        for value in target.read(payload):
            assert np.isfinite(value).all(), "decoded, but not finite"
        tally.decoded += 1
        if target.sealed and payload not in target.payloads:
            tally.accepted += 1
            tally.examples.setdefault(f"accepted: {target.name}", payload.hex())
    except FedliteError:
        tally.typed += 1
    except Exception as error:
        tally.untyped += 1
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{target.name}: {type(error).__name__} {error} at {last.filename}:{last.lineno}"
        tally.examples.setdefault(where, payload.hex()[:4000])
    tally.slowest_ms = max(tally.slowest_ms, 1e3 * (time.perf_counter() - begin))


def attack_chunks(
    targets: Sequence[Target], chunks: Iterable[int], seed: int, tell: Any, most: int = 3000
) -> Tally:
    """The payloads of each chunk, whose number says which target is meant; `tell(chunk)` before each payload."""
    tally = Tally()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chunk in chunks:
            target = targets[chunk % len(targets)]
            rng = Random(derive(seed, "fuzz", target.name, chunk))
            for _ in range(min(target.chunk, most)):
                tell(chunk)
                attack(rng, target, tally)
    return tally


def run(mutations: int, workers: int, seed: int, tell: Any) -> Tally:
    """All of them, in `workers` processes; a process that crashes or hangs costs its chunk and is made anew."""
    total, chunks = Tally(), chunks_for(mutations, [each.chunk for each in small_targets()])
    context = get_context("spawn")
    left = {each: list(range(each, chunks, workers)) for each in range(workers)}
    state = {each: context.Array("q", 2) for each in range(workers)}  # chunk, payloads so far
    queue = context.Queue()
    running = {each: _start(context, each, left[each], seed, state[each], queue) for each in left}
    seen = dict.fromkeys(running, (0, time.monotonic()))
    done = 0
    while running:
        try:
            tally = queue.get(timeout=0.2)
            total.add(tally)
            if total.mutations - done >= mutations // 50:
                done = total.mutations
                tell(total)
        except Empty:
            pass
        for each, process in [*running.items()]:
            chunk, count = state[each]
            if count != seen[each][0]:
                seen[each] = count, time.monotonic()
            hangs = process.is_alive() and count > 0 and time.monotonic() - seen[each][1] > HANG_SECONDS
            if process.is_alive() and not hangs:
                continue
            if hangs:
                process.kill()
            process.join()
            del running[each]
            if hangs or process.exitcode:
                total.hangs += hangs
                total.crashes += not hangs
                total.examples.setdefault(f"{'hang' if hangs else 'crash'} in chunk {chunk}", "")
                left[each] = [later for later in left[each] if later > chunk]
                state[each][1] = 0
                seen[each] = 0, time.monotonic()
                running[each] = _start(context, each, left[each], seed, state[each], queue)
    while not queue.empty():
        total.add(queue.get())
    return total


def chunks_for(mutations: int, sizes: Sequence[int]) -> int:
    """How many chunks, one target after another, hold at least so many payloads."""
    whole, rest = divmod(mutations, sum(sizes))
    return whole * len(sizes) + int(np.searchsorted(np.cumsum([0, *sizes]), rest))


def _start(context: Any, each: int, chunks: list[int], seed: int, state: Any, queue: Any) -> Any:
    process = context.Process(target=_work, args=(chunks, seed, state, queue), daemon=True)
    process.start()
    return process


def _work(chunks: list[int], seed: int, state: "SynchronizedArray[int]", queue: Any) -> None:
    """A process's part; a tally for each four chunks."""
    targets = small_targets()
    raw = state.get_obj()

    def tell(chunk: int) -> None:
        raw[0] = chunk
        raw[1] += 1

    attack_chunks(targets, range(len(targets)), seed + 1, lambda chunk: None, 5)  # everything is loaded once
    idle = memory_bytes()
    for begin in range(0, len(chunks), 4):
        tally = attack_chunks(targets, chunks[begin : begin + 4], seed, tell)
        tally.grown_mb = (memory_bytes("VmHWM") - idle) / 1e6
        queue.put(tally)
