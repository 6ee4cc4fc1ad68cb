"""What structured pruning saves: MACs, parameters and eager latency before and after, in turn, one thread.

    python scripts/bench/pruning.py [--quick] [--ratio 0.5] [--seed 0]

MobileNetV2 at 224 px with BatchNorm and with GroupNorm, SqueezeNet at 224 px, McMahan's CNN at 28 px: a share of the
channels of every layer goes, by magnitude. Weights are fresh: time does not depend on them, accuracy is not asked
here. MACs are half of what torch's own counter calls FLOPs; milliseconds are of one example, float32, the median of
all repetitions, the networks taking turns. `--quick` repeats 20 times and not 200. The last line is one JSON object.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import torch  # noqa: E402
from local import setting  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from fedlite.compress.structured import prune_channels  # noqa: E402
from fedlite.models.bridge import initial_params, load_params  # noqa: E402
from fedlite.models.registry import build, resolve  # noqa: E402

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mobilenet_v2_batch": ("mobilenet_v2", {"norm": "batch"}),
    "mobilenet_v2_group": ("mobilenet_v2", {"norm": "group"}),
    "squeezenet": ("squeezenet", {}),
    "cnn": ("cnn", {}),
}


def pair(name: str, options: dict[str, Any], ratio: float, seed: int) -> tuple[torch.Tensor, list[nn.Module]]:
    """An input, and the network before and after."""
    spec = resolve(name, options)
    params = initial_params(build(spec), seed)
    nets = []
    for made, values in ((spec, params), prune_channels(spec, params, ratio)):
        net = build(made).eval()
        load_params(net, values)
        nets.append(net)
    return torch.zeros(1, *dict(spec.options)["input_shape"]), nets


def macs(net: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        net(x)
    return counter.get_total_flops() // 2


def milliseconds(nets: list[nn.Module], x: torch.Tensor, times: int) -> list[float]:
    taken: list[list[float]] = [[] for _ in nets]
    for repeat in range(times + 3):
        for net, found in zip(nets, taken, strict=True):
            begun = time.perf_counter()
            net(x)
            if repeat >= 3:
                found.append(1000 * (time.perf_counter() - begun))
    return [statistics.median(each) for each in taken]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="20 repetitions, not 200")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of each layer's channels to remove")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, float]] = {}
    print(f"{'model':20} {'MMAC':>15} {'parameters':>19} {'ms':>13}  times as fast")
    with torch.no_grad():
        for label, (name, options) in MODELS.items():
            x, nets = pair(name, options, given.ratio, given.seed)
            counts = [macs(net, x) / 1e6 for net in nets]
            sizes = [sum(each.numel() for each in net.parameters()) for net in nets]
            took = milliseconds(nets, x, 20 if given.quick else 200)
            print(
                f"{label:20} {counts[0]:7.1f} {counts[1]:7.1f} {sizes[0]:9d} {sizes[1]:9d}"
                f" {took[0]:6.1f} {took[1]:6.1f}  {took[0] / took[1]:.2f}"
            )
            rows[label] = {
                "mmac_before": counts[0], "mmac_after": counts[1], "macs_ratio": counts[1] / counts[0],
                "params_ratio": sizes[1] / sizes[0], "ms_before": took[0], "ms_after": took[1],
                "speedup": took[0] / took[1],
            }  # fmt: skip
    print(json.dumps({"rows": rows, "settings": setting() | vars(given)}))


if __name__ == "__main__":
    main()
