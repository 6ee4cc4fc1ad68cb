"""Int8-aware training by our own fake-quantization or by PT2E (torchao): what each costs and what it gives.

    python scripts/bench/quantize_aware.py [--quick] [--data-dir DIR] [--seed 0] [--steps N]

Fashion-MNIST; the CNN of McMahan 2017, and MobileNetV2 with GroupNorm and with BatchNorm. From the same initial
weights, on the same batches, with Adam, three modules take every step in turn: float32, `quantize.at(model, 8)`, and
what torch.export + prepare_qat_pt2e make of the model (X86InductorQuantizer, the public one of torchao). One thread.

Per model: `prepare_seconds` of each; `step_ratio`, the median time of a step by that of a float step; `accuracy` after
the same steps, on test images, rounding as trained; `agreement` of ours as whole numbers with ours as trained. Times
are those of the processor, so that other work beside does not count. `import_seconds` is what loading torchao takes.
torchao is no dependency of fedlite: pip install "torchao>=0.18,<0.19". Without it, its columns say so.
`--quick` takes fewer steps and the small MobileNetV2: under 2 minutes. The last line is one JSON object.
"""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from local import report, setting
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.compress import quantize
from fedlite.compress.integer import to_integer
from fedlite.data.base import Dataset
from fedlite.data.datasets import load_stored
from fedlite.models import build, params_of
from fedlite.train import batches

MOBILENET = {"input_shape": (1, 28, 28), "num_classes": 10, "stem_stride": 1}
MISSING = 'not installed: pip install "torchao>=0.18,<0.19"'
BATCH = 32


@dataclass
class Way:
    """One module under training: how to put it into evaluation, and what its steps took."""

    net: nn.Module
    prepare_seconds: float
    evaluating: Callable[[nn.Module], nn.Module]
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.adam = torch.optim.Adam(self.net.parameters(), 1e-3)

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of training, timed."""
        began = time.process_time()
        self.adam.zero_grad()
        F.cross_entropy(self.net(x), y).backward()
        self.adam.step()
        self.seconds.append(time.process_time() - began)

    def answers(self, x: Tensor) -> Tensor:
        """The likeliest class of each image."""
        net = self.evaluating(self.net)
        with torch.no_grad():
            return torch.cat([net(part).argmax(1) for part in x.split(BATCH)])


def plain(model: nn.Module) -> Way:
    return Way(quantize.at(model, 32).train(), 0.0, nn.Module.eval)


def ours(model: nn.Module) -> Way:
    began = time.process_time()
    net = quantize.at(model, 8).train()
    return Way(net, time.process_time() - began, nn.Module.eval)


def pt2e(model: nn.Module, shape: tuple[int, ...]) -> Way:
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    example, began = torch.zeros(BATCH, *shape), time.process_time()
    exported = torch.export.export(quantize.at(model, 32).train(), (example,)).module()
    config = x86.get_default_x86_inductor_quantization_config(is_qat=True)
    net = prepare_qat_pt2e(exported, x86.X86InductorQuantizer().set_global(config))
    return Way(net, time.process_time() - began, move_exported_model_to_eval)


def load_torchao() -> float | None:
    """The seconds it takes; None where it is not installed."""
    began = time.process_time()
    try:
        from torchao.quantization.pt2e import quantize_pt2e, quantizer  # noqa: F401
    except ImportError:
        return None
    return time.process_time() - began


def compare(
    model: nn.Module, train: Dataset, test: Dataset, steps: int, seed: int, has_pt2e: bool
) -> dict[str, Any]:
    """The figures of one model."""
    ways = {"float": plain(model), "ours": ours(model)}
    if has_pt2e:
        ways["pt2e"] = pt2e(model, train.x.shape[1:])
    for x, y in _batches(train, steps, seed):
        for way in ways.values():
            way.step(x, y)
    figures: dict[str, Any] = {"accuracy": {}, "prepare_seconds": {}, "step_seconds": {}, "step_ratio": {}}
    count = len(test) // BATCH * BATCH  # an exported module takes whole batches
    x, y = torch.from_numpy(test.x[:count]), torch.from_numpy(test.y[:count].astype(np.int64))
    trained = params_of(ways["ours"].net)
    for name, way in ways.items():
        found = way.answers(x)
        figures["accuracy"][name] = float((found == y).float().mean())
        figures["prepare_seconds"][name] = way.prepare_seconds
        figures["step_seconds"][name] = float(np.median(way.seconds))
        figures["step_ratio"][name] = figures["step_seconds"][name] / figures["step_seconds"]["float"]
        if name == "ours":
            whole = to_integer(model, trained).run(x.numpy()[: BATCH * 8]).argmax(1)
            figures["agreement"] = float((whole == found.numpy()[: BATCH * 8]).mean())
    return figures


def _batches(data: Dataset, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches of BATCH images, epoch after epoch."""
    taken = 0
    for epoch in range(steps):
        for chosen in batches(len(data), BATCH, seed, epoch):
            if taken == steps:
                return
            if len(chosen) == BATCH:
                taken += 1
                yield torch.from_numpy(data.x[chosen]), torch.from_numpy(data.y[chosen].astype(np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps, a smaller MobileNetV2")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("FEDLITE_DATA"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, default=0, help="steps of the CNN, twice MobileNetV2's; 0 is 600 or 40"
    )
    parser.add_argument("--width", type=float, default=0.0, help="of MobileNetV2; 0 is 0.5 or 0.25")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if given.data_dir is None:
        sys.exit("give --data-dir, or set FEDLITE_DATA: the folder with the npz data sets")
    count = 1024 if given.quick else 5120
    train, test = (
        load_stored("fashion_mnist", split, Path(given.data_dir)).take(np.arange(size)).open()
        for split, size in (("train", 20_000), ("test", count))
    )
    width = given.width or (0.25 if given.quick else 0.5)
    steps = given.steps or (40 if given.quick else 600)
    import_seconds = load_torchao()
    models = {
        "cnn": build("cnn"),
        "mobilenet_v2": build("mobilenet_v2", **MOBILENET, width=width),
        "mobilenet_v2_batch": build("mobilenet_v2", **MOBILENET, width=width, norm="batch"),
    }
    figures = {}
    for name, model in models.items():
        taken = steps if name == "cnn" else steps // 2
        figures[name] = compare(model, train, test, taken, given.seed, import_seconds is not None)
        print(f"{name}: {figures[name]}", file=sys.stderr, flush=True)
    flat = {f"{m}_{k}": v for m, f in figures.items() for k, v in f.items()}
    flat["import_seconds"] = MISSING if import_seconds is None else import_seconds
    report(
        flat,
        setting(steps=steps, batch_size=BATCH, width=width, seed=given.seed, threads=1, quick=given.quick),
    )


if __name__ == "__main__":
    main()
