"""What a deployed student costs: int8 in ONNX Runtime against eager float32 of the unpruned model, one thread.

MobileNetV2 at 224 px and 1000 classes. The unpruned model is measured in every form that fedlite has of it, in both
memory layouts, and the fastest of all is the baseline, even if it is half a deployment already: BatchNorm folded away
and channels last. `speedup_trained` is against the fastest form that can be trained. The student is the same network
with a share of each layer's channels pruned away, BatchNorm folded, quantized on calibration examples, exported by
fedlite.export. Everything is measured in turn in this process, one example at a time; agreement and resident memory
come from a process that runs the file alone.

`speedup` is the lesser of two ratios: of wall time (p50) and of the thread's CPU time, which are the same on a quiet
machine; `busy` says how far they are apart.

Weights are random and examples are drawn: accuracy is NOT what this measures (scripts/bench/student.py does). Shapes,
BatchNorm statistics, activation ranges, kernels and files are those of a trained model.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from local import report, setting

from fedlite.calibrate import quantize_static
from fedlite.compress.integer import IntegerModel
from fedlite.compress.structured import cost_of, prune_channels
from fedlite.export import onnxruntime
from fedlite.export.parity import compare
from fedlite.export.source import integer_of
from fedlite.models import ModelSpec, build, initial_params, load_params
from fedlite.models.fold import fold_norms
from fedlite.models.registry import resolve
from fedlite.seeds import generator
from fedlite.train import with_stats_of
from fedlite.types import Params

CALIBRATION = 32
BLOCK = 4  # calls in a row: a device runs one model, whose weights stay in its caches


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--ratio", type=float, default=0.7, help="share of each layer's channels that goes")
    parser.add_argument("--rounds", type=int, default=30, help="how often each has its turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="4 rounds, under two minutes")
    args = parser.parse_args()
    rounds = 4 if args.quick else args.rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(args.size, args.ratio, rounds, args.seed, Path(folder))
    settings = setting(**(vars(args) | {"rounds": rounds}), model="mobilenet_v2, width 1, 1000 classes")
    print("accuracy is not measured here: the weights are random, the costs are not")
    report(figures, settings)
    return 0


def measure(size: int, ratio: float, rounds: int, seed: int, folder: Path) -> dict[str, Any]:
    images = pictures(CALIBRATION, size, seed)
    spec = with_options({"input_shape": (3, size, size)}, norm="batch")
    params = initial_params(build(spec), seed)
    student_spec, student_params = prune_channels(spec, params, ratio, round_to=8)
    calls: dict[str, Callable[[], Any]] = dict(eager(spec, params, images, seed))
    files: dict[str, tuple[Path, IntegerModel]] = {}
    for name, one, values in (("int8", spec, params), ("student", student_spec, student_params)):
        files[name] = (folder / f"{name}.onnx", deployed(one, values, images))
        onnxruntime.write(files[name][1], files[name][0], images)
        calls[name] = caller(onnxruntime.open(files[name][0]), images)
    times = in_turn(calls, rounds)
    p50, cpu, p95 = percentile(times, 0, 50), percentile(times, 1, 50), percentile(times, 0, 95)
    eager_forms = [name for name in cpu if name.startswith("eager")]
    trained = min((name for name in eager_forms if "folded" not in name), key=cpu.__getitem__)
    fastest = min(eager_forms, key=cpu.__getitem__)
    speedups = {name: (p50[fastest] / p50[name], cpu[fastest] / cpu[name]) for name in files}
    parity = {name: compare("onnxruntime", *files[name], pictures(64, size, seed + 1)) for name in files}
    (parameters, macs), (left, left_macs) = cost_of(spec), cost_of(student_spec)
    sizes = {name: path.stat().st_size for name, (path, _) in files.items()}
    return {
        "speedup": round(min(speedups["student"]), 2),
        "size_ratio": round(4 * parameters / sizes["student"], 2),
        "speedup_wall": round(speedups["student"][0], 2),
        "speedup_cpu": round(speedups["student"][1], 2),
        "speedup_unpruned": round(min(speedups["int8"]), 2),
        "size_ratio_unpruned": round(4 * parameters / sizes["int8"], 2),
        "speedup_trained": round(min(p50[trained] / p50["student"], cpu[trained] / cpu["student"]), 2),
        "baseline": fastest,
        "baseline_trained": trained,
        **{f"{name}_p50_ms": round(each, 3) for name, each in p50.items()},
        **{f"{name}_p95_ms": round(each, 3) for name, each in p95.items()},
        **{f"{name}_cpu_ms": round(each, 3) for name, each in cpu.items()},
        "busy": round(max(p50[name] / cpu[name] for name in cpu), 2),
        "float32_bytes": 4 * parameters,
        **{f"{name}_bytes": each for name, each in sizes.items()},
        "macs": macs,
        "student_macs": left_macs,
        "macs_ratio": round(left_macs / macs, 4),
        "params_ratio": round(left / parameters, 4),
        **{f"{name}_agreement": each.agreement for name, each in parity.items()},
        **{
            f"{name}_resident_mb": round((each.resident_bytes or 0) / 1e6, 1) for name, each in parity.items()
        },
        "kernels": {name: onnxruntime.kernels(path) for name, (path, _) in files.items()},
    }


def pictures(count: int, size: int, seed: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Drawn images in [0, 1): coarse patches and fine noise."""
    random = generator(seed, "bench", "pictures")
    coarse = random.random((count, 3, 7, 7), np.float32).repeat(-(-size // 7), 2).repeat(-(-size // 7), 3)
    return 0.8 * coarse[..., :size, :size] + 0.2 * random.random((count, 3, size, size), np.float32)


def with_options(options: dict[str, Any], norm: str, stats: str = "averaged") -> ModelSpec:
    return resolve("mobilenet_v2", options | {"norm": norm, "batch_stats": stats})


def measured(spec: ModelSpec, params: Params, images: Any) -> Params:
    """BatchNorm's statistics, on the calibration images."""
    options = dict(spec.options) | {"batch_stats": "local"}
    local = ModelSpec(spec.name, tuple(sorted(options.items())), spec.changes)
    return with_stats_of(build(local), params, images)


def eager(spec: ModelSpec, params: Params, images: Any, seed: int) -> dict[str, Callable[[], Any]]:
    """The unpruned model in float32: each norm that fedlite has, channels first and last."""
    batch = measured(spec, params, images)
    group = with_options({"input_shape": dict(spec.options)["input_shape"]}, norm="group")
    forms = {"batch": (spec, batch), "folded": fold_norms(spec, batch),
             "group": (group, initial_params(build(group), seed))}  # fmt: skip
    calls = {}
    for name, (one, values) in forms.items():
        for layout, order in (("", torch.contiguous_format), ("_channels_last", torch.channels_last)):
            net = build(one).eval()
            load_params(net, values)
            calls[f"eager_{name}{layout}"] = _eager(net.to(memory_format=order), images, order)
    return calls


def _eager(net: torch.nn.Module, images: Any, order: torch.memory_format) -> Callable[[], Any]:
    x = torch.from_numpy(images[:1]).contiguous(memory_format=order)

    def call() -> Any:
        with torch.inference_mode():
            return net(x)

    return call


def deployed(spec: ModelSpec, params: Params, images: Any) -> IntegerModel:
    """The integer model: BatchNorm folded, ranges from the calibration images."""
    plain, folded = fold_norms(spec, measured(spec, params, images))
    return integer_of(plain, quantize_static(plain, folded, images))


def caller(run: Callable[[Any], Any], images: Any) -> Callable[[], Any]:
    return lambda: run(images[:1])


def in_turn(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) milliseconds of calls: BLOCK of one kind after one that does not count, then the next kind."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            for _ in range(BLOCK):
                began, used = time.perf_counter(), time.thread_time()
                call()
                taken = time.perf_counter() - began, time.thread_time() - used
                times[name].append((1e3 * taken[0], 1e3 * taken[1]))
    return times


def percentile(times: dict[str, list[tuple[float, float]]], place: int, percent: int) -> dict[str, float]:
    return {
        name: float(np.percentile([each[place] for each in found], percent)) for name, found in times.items()
    }


if __name__ == "__main__":
    sys.exit(main())
