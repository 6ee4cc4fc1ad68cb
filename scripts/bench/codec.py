"""How fast updates are coded and added up, on one core: every preset on a real update, and the streaming mean.

    python scripts/bench/codec.py --data-dir DATA           about five minutes
    python scripts/bench/codec.py --data-dir DATA --quick   under two

The update is what one epoch on 200 Fashion-MNIST samples changes in McMahan's CNN (1.66 M parameters), as
`python -m fedlite.codec bench` makes it. Presets, and zstd-3 of the update's float32 bytes beside them, take turns in
this process. MB/s are of float32 and of the thread's CPU time, medians, which is one core's speed whatever else the
machine does; `_wall` is that of the best call by the clock on the wall, and `busy` how far both clocks are apart.

The aggregation: decoded updates of 1 M parameters, one after another, into `fedlite.aggregate` and, in turn, into a
plain NumPy total, in place, by tensor: `total += weight * update`. `aggregate_ratio` is against a total as exact as
ours, in float64, the faster of two ways to write it; `aggregate_ratio_float32` against one in float32, which moves half
the bytes and loses what float32 loses. Both are the lesser of wall and CPU time, medians. fedlite's add checks every
value besides. `aggregate_peak_models` is the most memory above the idle, in float32 models, the update that is being
added included: the greater of what NumPy took (tracemalloc) and what the process grew by (VmHWM).
"""

import argparse
import os
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import zstandard
from local import forget_peak, memory_bytes, report, setting

from fedlite import aggregate
from fedlite.apps.settings import JobSettings
from fedlite.codec.example import make
from fedlite.codec.figures import MEGA, nearness
from fedlite.compress.codec import encode_with_feedback
from fedlite.compress.presets import PRESETS, codec_by_name
from fedlite.errors import FedliteError
from fedlite.seeds import generator
from fedlite.tensors import size_bytes
from fedlite.types import Array, Result, Update

ZSTD = "zstd-3 of float32"
SHAPES = {
    "hidden.weight": (1258, 784),
    "hidden.bias": (1258,),
    "output.weight": (10, 1258),
    "output.bias": (10,),
}


class Spent(NamedTuple):
    """Seconds of one call, by both clocks."""

    wall: float
    cpu: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="folder with the data sets; default: $FEDLITE_DATA")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--rounds", type=int, default=40, help="how often each codec has its turn")
    parser.add_argument("--updates", type=int, default=1000, help="that are aggregated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="8 rounds, 100 updates")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.updates = 8, 100
    default = JobSettings().uplink_codec
    try:
        example = make(args.model, "fashion_mnist", args.data_dir, 200, args.seed)
    except FedliteError as error:
        sys.exit(str(error))
    print(f"{example.title}: {example.parameters} parameters; trained on {example.trained_on}")
    rows = coded(example.update, args.rounds, args.seed)
    show(rows)
    figures = {
        f"{way}_mb_s{suffix}": rows[name][f"{way}_mb_s"]
        for name, suffix in ((default, ""), ("smallest", "_smallest"), (ZSTD, "_zstd"))
        for way in ("encode", "decode")
    } | aggregated(args.updates, args.seed)
    settings = setting(**{name: str(value) for name, value in vars(args).items()}, numpy=np.__version__)
    report(figures, settings | {"default": default}, more={"codecs": rows})
    return 0


def coded(update: Update, rounds: int, seed: int) -> dict[str, dict[str, Any]]:
    """Each preset's figures, and zstd's."""
    times: dict[str, dict[str, list[Spent]]] = defaultdict(lambda: defaultdict(list))
    kept: dict[str, dict[str, Any]] = {}
    size = size_bytes(update)
    for _ in range(rounds):
        for name in PRESETS:
            codec, chance = codec_by_name(name), generator(seed, "codec", name)
            payload = timed(times[name]["encode"], lambda: codec.encode(update, generator=chance))  # noqa: B023
            read = timed(times[name]["decode"], lambda: codec.decode(payload, update))  # noqa: B023
            chance = generator(seed, "codec", name)
            timed(
                times[name]["feedback"],
                lambda: encode_with_feedback(codec, update, None, generator=chance),  # noqa: B023
            )
            if name not in kept:
                cosine, error = nearness(update, read)
                kept[name] = {
                    "parts": PRESETS[name], "bytes": len(payload), "ratio": size / len(payload),
                    "cosine": cosine, "error": error,
                }  # fmt: skip
        flat = b"".join(value.tobytes() for value in update.values())
        frame = timed(times[ZSTD]["encode"], lambda: zstandard.ZstdCompressor(3).compress(flat))  # noqa: B023
        timed(times[ZSTD]["decode"], lambda: zstandard.ZstdDecompressor().decompress(frame))  # noqa: B023
        kept[ZSTD] = {
            "parts": "",
            "bytes": len(frame),
            "ratio": size / len(frame),
            "cosine": 1.0,
            "error": 0.0,
        }
    for name, ways in times.items():
        for way, spent in ways.items():
            kept[name][f"{way}_mb_s"] = size / MEGA / float(np.median([each.cpu for each in spent]))
            kept[name][f"{way}_mb_s_wall"] = size / MEGA / min(each.wall for each in spent)
        every = [each for spent in ways.values() for each in spent]
        kept[name]["busy"] = float(np.median([each.wall / each.cpu for each in every]))
    return kept


def aggregated(count: int, seed: int) -> dict[str, float]:
    """The streaming mean beside plain sums."""
    rng = generator(seed, "updates")
    some = [
        {name: rng.standard_normal(shape, np.float32) * np.float32(1e-3) for name, shape in SHAPES.items()}
        for _ in range(4)
    ]
    weights = rng.integers(1, 1000, count).tolist()
    adders = {
        "ours": streaming(some[0]),
        "float64": plain(some[0], np.float64),
        "float64 wide": plain(some[0], np.float64, wide=True),
        "float32": plain(some[0], np.float32),
    }
    times: dict[str, list[Spent]] = defaultdict(list)
    for index, weight in enumerate(weights):
        update = arriving(some, index)
        turn = index % len(adders)
        for name in [*adders][turn:] + [*adders][:turn]:
            timed(times[name], lambda: adders[name](update, weight))  # noqa: B023
    ms = {
        clock: {
            name: 1e3 * float(np.median([each[clock] for each in spent])) for name, spent in times.items()
        }
        for clock in (0, 1)
    }
    return {
        "aggregate_ratio": min(min(ms[c]["float64"], ms[c]["float64 wide"]) / ms[c]["ours"] for c in ms),
        "aggregate_ratio_float32": min(ms[c]["float32"] / ms[c]["ours"] for c in ms),
        "aggregate_peak_models": peak(some, weights),
        **{f"aggregate_ms_{name.replace(' ', '_')}": each for name, each in ms[0].items()},
        "aggregate_busy": ms[0]["ours"] / ms[1]["ours"],
    }


def streaming(like: Update) -> Callable[[Update, int], None]:
    total = aggregate.start(like)

    def add(update: Update, weight: int) -> None:
        nonlocal total
        total = aggregate.add(total, Result("client", update, weight))

    return add


def plain(like: Update, dtype: type, *, wide: bool = False) -> Callable[[Update, int], None]:
    """Products in float32, or, if `wide`, in float64."""
    total = {name: np.zeros(value.shape, dtype) for name, value in like.items()}

    def add(update: Update, weight: int) -> None:
        for name, value in update.items():
            total[name] += weight * (value.astype(np.float64) if wide else value)

    return add


def peak(some: list[dict[str, Array]], weights: list[int]) -> float:
    """Models of float32 above the idle, from the empty total to the mean."""
    model = size_bytes(some[0])
    forget_peak()
    tracemalloc.start()
    idle = memory_bytes()
    total = aggregate.start(some[0])
    for index, weight in enumerate(weights):
        total = aggregate.add(total, Result("client", arriving(some, index), weight))
    aggregate.finish(total)
    grown, traced = memory_bytes("VmHWM") - idle, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return max(grown, traced) / model


def arriving(some: list[dict[str, Array]], index: int) -> dict[str, Array]:
    """An update in memory of its own, as decoding leaves it."""
    return {name: value.copy() for name, value in some[index % len(some)].items()}


def timed(times: list[Spent], call: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.thread_time()
    found = call()
    times.append(Spent(time.perf_counter() - wall, time.thread_time() - cpu))
    return found


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The table of codecs."""
    width = max(map(len, rows))
    print(
        f"{'codec':<{width}}{'bytes':>10}{'ratio':>8}{'cosine':>9}{'error':>9}   encode   decode  feedback  MB/s (wall)"
    )
    for name, row in rows.items():
        speeds = "".join(
            f"{row[f'{way}_mb_s']:>7.0f} ({row[f'{way}_mb_s_wall']:.0f})"
            for way in ("encode", "decode", "feedback") if f"{way}_mb_s" in row
        )  # fmt: skip
        print(
            f"{name:<{width}}{row['bytes']:>10}{row['ratio']:>8.1f}{row['cosine']:>9.4f}{row['error']:>9.4f}"
            f"{speeds}  busy {row['busy']:.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
