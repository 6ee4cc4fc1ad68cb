"""What weights of 8 to 2 bits cost in accuracy: calibrated after training, and trained integer-aware.

    python scripts/bench/quantize_bits.py [--quick] [--data-dir DIR] [--model lenet5] [--seeds 0,1,2]

Fashion-MNIST. Per seed a model is trained in float32, then calibrated with 256 of its training images
(`calibrate.quantize_static`), per channel and per tensor; and from the same start it is trained at each number of bits
as long. Points lost are those of the float model's accuracy, on test images; mean and spread (standard deviation) over
the seeds. `--quick` has one seed and fewer images: under 2 minutes. The last line is one JSON object.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from local import setting

from fedlite.calibrate import quantize_static
from fedlite.compress import quantize
from fedlite.data.base import Dataset
from fedlite.data.datasets import load_stored
from fedlite.models import build, initial_params, spec_of
from fedlite.train import TrainSettings, evaluate, local_train

BITS = (8, 4, 3, 2)
WAYS = {"calibrated": True, "calibrated per tensor": False}  # per channel?
AWARE = "trained integer-aware"


def one_seed(name: str, train: Dataset, test: Dataset, epochs: int, seed: int) -> dict[str, dict[int, float]]:
    """Accuracy by way and bits; 32 is the float model's."""
    model = build(name)
    how = TrainSettings(epochs=epochs, optimizer="adam", learning_rate=1e-3)

    def trained(bits: int) -> tuple[dict[str, np.ndarray], float]:
        start = initial_params(quantize.at(model, bits), seed)
        settings = TrainSettings(**vars(how) | {"bits": bits})
        params = local_train(model, start, train.x, train.y, settings, seed=seed).params
        return params, evaluate(model, params, test.x, test.y, bits=bits)["accuracy"]

    params, exact = trained(32)
    found: dict[str, dict[int, float]] = {AWARE: {32: exact}}
    made = quantize_static(spec_of(model), params, train.x[:256])
    for way, per_channel in WAYS.items():
        found[way] = {}
        for bits in BITS:
            rounding = quantize.at(model, bits, per_channel)
            found[way][bits] = evaluate(rounding, made, test.x, test.y, bits=bits)["accuracy"]
    for bits in BITS:
        found[AWARE][bits] = trained(bits)[1]
    print(f"seed {seed}: {found}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, fewer images")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("FEDLITE_DATA"))
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.data_dir is None:
        sys.exit("give --data-dir, or set FEDLITE_DATA: the folder with the npz data sets")
    images, epochs = (3000, 1) if given.quick else (10_000, 3)
    seeds = [0] if given.quick else [int(each) for each in given.seeds.split(",")]
    train, test = (
        load_stored("fashion_mnist", split, Path(given.data_dir)).take(np.arange(count)).open()
        for split, count in (("train", images), ("test", images // 2))
    )
    runs = [one_seed(given.model, train, test, epochs, seed) for seed in seeds]
    exact = np.array([run[AWARE][32] for run in runs])
    lost = {way: {bits: 100 * (exact - [run[way][bits] for run in runs]) for bits in BITS} for way in runs[0]}
    print(f"{given.model}: float32 {exact.mean():.4f} ± {exact.std():.4f}; points lost by bits of a weight:")
    for way, by_bits in lost.items():
        cells = "  ".join(
            f"{bits}: {value.mean():5.2f} ± {value.std():.2f}" for bits, value in by_bits.items()
        )
        print(f"  {way:<34}{cells}")
    figures = {
        way: {str(b): [float(v.mean()), float(v.std())] for b, v in each.items()}
        for way, each in lost.items()
    }
    settings = setting(model=given.model, images=images, epochs=epochs, seeds=seeds, quick=given.quick)
    print(json.dumps({"accuracy_float": float(exact.mean()), "points_lost": figures, "settings": settings}))


if __name__ == "__main__":
    main()
