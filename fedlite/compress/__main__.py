"""Make a model file small, and have it back: Deep Compression (Han et al. 2016) into one .fedlite file.

    python -m fedlite.compress model.safetensors --data mnist                 prune, train, share values, store
    python -m fedlite.compress model.safetensors --data mnist --recipe my.toml
    python -m fedlite.compress model.safetensors                              without data: share values and store only
    python -m fedlite.compress model.safetensors --sparsity 0.5               … and half of the weights go, untrained
    python -m fedlite.compress --show model.fedlite                           what takes how many bytes
    python -m fedlite.compress --decode model.fedlite --out back.safetensors

model.safetensors is what a run leaves in its folder; one that computes at 8 bits is compressed as float32, FedPara's
factors are multiplied out. A recipe is a name (deep-compression, light) or a TOML file:

    sparsity = 0.9            # share of the weights that go, over all layers
    clusters = 16             # values that a layer's weights share
    prune-epochs = 20         # training while weights go, and after
    share-epochs = 5          # training of the shared values
    [sparsities]              # layers that are pruned by themselves
    output = 0.5
    [units]                   # layers that keep so many units, the others going at first (chains of layers only)
    hidden1 = 150

Training reads the train split of --data, the error is that of the test split. The same seed gives the same file on one
kind of machine.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlite.compress import stored
from fedlite.config import option, parse
from fedlite.errors import FedliteError, SettingsError
from fedlite.tensors import size_bytes

if TYPE_CHECKING:
    from fedlite.compress.deep import Recipe
    from fedlite.compress.deep_train import Examples
    from fedlite.models import ModelSpec
    from fedlite.models.saved import Saved
    from fedlite.types import Params

OK, FAILED, BAD_SETTINGS = 0, 1, 2


@dataclass(frozen=True)
class Config:
    """Fields are the command line and the TOML file of --config."""

    recipe: str = option(
        "deep-compression", "a recipe's name, or a TOML file of its settings", metavar="NAME"
    )
    data: str = option("", "what to train on and test with: mnist, digits, a path …; none: no training")
    data_dir: Path | None = option(None, "where data sets are stored", metavar="DIR")
    sparsity: float | None = option(None, "share of the weights to prune, in [0, 1); wins over the recipe")
    teacher: Path | None = option(
        None, "a model whose answers the training follows (recipe: soft)", metavar="FILE"
    )
    out: Path | None = option(
        None, "the file to write; else beside the model, with another suffix", metavar="FILE"
    )
    seed: int = option(1, "of shuffling and moving the training samples")
    show: Path | None = option(None, "print what a .fedlite file is made of", metavar="FILE")
    decode: Path | None = option(None, "write a .fedlite file's weights as safetensors", metavar="FILE")
    json: bool = option(False, "print one JSON object, no table")


def body(argv: Sequence[str]) -> int:
    """Compress, show, or decode."""
    model, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("", argv)
    config = parse(Config, rest, prog="python -m fedlite.compress MODEL", description=__doc__ or "")
    if sum(map(bool, (model, config.show, config.decode))) != 1:
        raise SettingsError(
            "one MODEL, one --show or one --decode is wanted",
            remedy="python -m fedlite.compress model.safetensors, or --help",
        )
    if config.out is not None and config.out.is_dir():
        raise SettingsError(f"cannot write {config.out}: it is a folder", remedy="name a file in it")
    if config.show:
        _report(config, _sizes(stored.read(config.show), config.show))
    elif config.decode:
        _decode(config.decode, config.out or config.decode.with_suffix(".safetensors"))
    else:
        _compress(Path(model), config)
    return OK


def _compress(path: Path, config: Config) -> None:
    from fedlite.compress.deep import compress
    from fedlite.models.saved import load_model

    out = config.out or path.with_suffix(".fedlite")
    if not out.parent.is_dir():
        raise SettingsError(f"cannot write {out}: there is no such folder", remedy="make it first")
    saved = load_model(path)
    spec, params = _plain(path, saved)
    recipe = _recipe(config)
    if config.teacher is not None and not (recipe.soft and config.data):
        raise SettingsError(
            "--teacher would not be followed: "
            + ("soft is 0 in the recipe" if config.data else "there is no --data"),
            remedy="give --data, and --recipe FILE.toml with soft = 0.5 or another share of the loss",
        )
    examples = None
    if config.data:
        examples = _examples(config)
    else:
        _say(f"no --data: nothing is trained; {recipe.sparsity:.0%} of the weights go as they are")
    model = compress(spec, params, recipe, examples, seed=config.seed, tell=_say)
    stored.save(out, model)
    found = _sizes(stored.read(out), out)
    if config.data:
        found |= {
            "error_percent": _error(config, spec, stored.load(out)[1]),
            "error_percent_before": _error(config, saved.spec, saved.params, saved.bits),
        }
    _report(config, found)


def _plain(path: Path, saved: "Saved") -> "tuple[ModelSpec, Params]":
    """The model in float32, without what is not to be pruned: FedPara's factors, and ranges of what rounds."""
    from fedlite.compress.lowrank import merge
    from fedlite.models.saved import RANGE

    spec, params = saved.spec, saved.params
    if any(kind == "fedpara" for kind, *_ in spec.changes):
        _say(f"{path}: FedPara's factors are multiplied out")
        spec, params = merge(spec, params, ("fedpara",))
    if saved.bits < 32:
        _say(
            f"{path} computes at {saved.bits} bits: its activation ranges go, and it is compressed as float32"
        )
        params = {name: value for name, value in params.items() if not name.endswith(RANGE)}
    return spec, params


def _recipe(config: Config) -> "Recipe":
    """The recipe, as far as it can be followed: a named one prunes nothing where nothing is trained."""
    from fedlite.compress.deep import RECIPES, open_recipe

    recipe = open_recipe(config.recipe)
    if config.sparsity is not None:
        return replace(recipe, sparsity=config.sparsity)
    return recipe if config.data or config.recipe not in RECIPES else replace(recipe, sparsity=0.0)


def _examples(config: Config) -> "Examples":
    from fedlite.compress.deep_train import Examples
    from fedlite.data.spec import open_data
    from fedlite.distill import load_teacher

    train = open_data(config.data, split="train", data_dir=config.data_dir)
    if config.teacher is None:
        return Examples(train.x, train.y)
    return Examples(train.x, train.y, load_teacher(config.teacher).logits(train.x))


def _error(config: Config, spec: "ModelSpec", params: "Params", bits: int = 32) -> float:
    from fedlite.data.spec import open_data
    from fedlite.models import build
    from fedlite.train import evaluate

    test = open_data(config.data, split="test", data_dir=config.data_dir)
    accuracy = evaluate(build(spec), params, test.x, test.y, bits=bits)["accuracy"]
    return round(100 * (1 - accuracy), 4)


def _decode(path: Path, out: Path) -> None:
    from fedlite.models import ModelSpec
    from fedlite.models.bridge import layout
    from fedlite.models.registry import skeleton
    from fedlite.models.saved import save_model
    from fedlite.tensors import check_like

    spec, params = stored.load(path)
    check_like(params, layout(skeleton(ModelSpec.from_json(spec))), str(path))
    save_model(out, spec, 32, params)
    print(f"{out}: {out.stat().st_size} bytes, float32")


def _sizes(model: stored.Stored, path: Path) -> dict[str, Any]:
    """What a file is made of: per tensor, then in all."""
    layers = {}
    for name, (mask, indices, book) in stored.costs(model).items():
        tensor = model.tensors[name]
        layers[name] = {
            "weights": tensor.mask.size,
            "live": int(tensor.mask.sum()),
            "values": len(tensor.codebook),
            "bytes": round(mask + indices + book),
            "mask_bytes": round(mask),
        }
    size, dense = path.stat().st_size, size_bytes(model.params())
    return {
        "file": str(path),
        "bytes": size,
        "bytes_float32": dense,
        "ratio": round(dense / size, 2),
        "layers": layers,
    }


def _report(config: Config, found: dict[str, Any]) -> None:
    """A table for people, then one JSON line for programs."""
    if not config.json:
        print(f"{'tensor':<28}{'weights':>10}{'live':>10}{'values':>8}{'bytes':>9}{'of them mask':>14}")
        for name, each in found["layers"].items():
            print(
                f"{name:<28}{each['weights']:>10}{each['live']:>10}{each['values']:>8}{each['bytes']:>9}"
                f"{each['mask_bytes']:>14}"
            )
        print(f"{found['file']}: {found['bytes']} bytes, {found['ratio']} times smaller than float32")
        if "error_percent" in found:
            print(f"test error {found['error_percent']} %, {found['error_percent_before']} % before")
    print(json.dumps(found))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; a FedliteError becomes one line on standard error and an exit code: 2 for settings, 1 for the rest."""
    try:
        return body(sys.argv[1:] if argv is None else argv)
    except FedliteError as error:
        text = "".join(each if each.isprintable() else "?" for each in str(error))  # some may be a file's
        print(f"error: {text}", file=sys.stderr)
        return BAD_SETTINGS if isinstance(error, SettingsError) else FAILED


if __name__ == "__main__":
    sys.exit(main())
