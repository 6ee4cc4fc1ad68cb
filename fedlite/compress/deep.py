"""Deep Compression: prune, train, share values, train those, store. (Han et al. 2016, ICLR)

A recipe says how much of each; data say how well. Without data only what needs none is done: the smallest weights go
at once, and shared values stay the means of their clusters.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedlite.compress import units
from fedlite.compress.cluster import MOST, Shared, share
from fedlite.compress.deep_train import Examples, Tell, Training, cubic, load, train_masked, train_shared
from fedlite.compress.prune import magnitude_masks, prunable
from fedlite.compress.stored import Stored
from fedlite.config import build as build_settings
from fedlite.config import from_mapping, option
from fedlite.errors import SettingsError
from fedlite.models import ModelSpec, build
from fedlite.seeds import derive
from fedlite.tensors import check_finite
from fedlite.types import Array, Masks, Params

TABLES = ("sparsities", "units")  # of a recipe's TOML file: layer → number


@dataclass(frozen=True)
class Recipe:
    """How a model is made small. SettingsError, with the range allowed, for a value outside it."""

    sparsity: float = option(0.9, "share of all weights to prune, by importance over all layers, in [0, 1)")
    clusters: int = option(16, "values that the weights of a layer share")
    bias_clusters: int = option(8, "values that the biases of a layer share")
    prune_epochs: int = option(20, "epochs of training while weights go and after")
    share_epochs: int = option(5, "epochs of training of the shared values")
    learning_rate: float = option(2e-3, "Adam's, at the beginning of pruning")
    share_learning_rate: float = option(2e-4, "Adam's, at the beginning of training shared values")
    weight_decay: float = option(0.0, "decoupled, while pruning")
    batch_size: int = option(128, "examples per step")
    shift: int = option(0, "move training images by up to this many pixels")
    soft: float = option(0.0, "share of the loss that follows a teacher, in [0, 1]")
    temperature: float = option(3.0, "of the teacher's answers")
    sparsities: tuple[tuple[str, float], ...] = ()  # layers that are pruned by themselves
    units: tuple[
        tuple[str, int], ...
    ] = ()  # layers that keep so many of their units, the others going at first

    def __post_init__(self) -> None:
        """Check every field."""
        for name, sparsity in (("all", self.sparsity), *self.sparsities):
            if not 0 <= sparsity < 1:
                raise SettingsError(f"the recipe's sparsity of {name} is {sparsity}; it must be in [0, 1)")
        for name in ("clusters", "bias_clusters"):
            if not 1 <= getattr(self, name) <= MOST:
                raise SettingsError(f"the recipe's {name} is {getattr(self, name)}; it must be 1 to {MOST}")
        for stage in (self.pruning(), self.sharing()):
            stage.check()

    def pruning(self) -> Training:
        """How masked weights train."""
        return Training(
            self.prune_epochs, self.batch_size, self.learning_rate, self.weight_decay, self.shift, self.soft,
            self.temperature,
        )  # fmt: skip

    def sharing(self) -> Training:
        """How centroids train."""
        rate = self.share_learning_rate
        return replace(self.pruning(), epochs=self.share_epochs, learning_rate=rate, weight_decay=0.0)


RECIPES: Mapping[str, Recipe] = {
    "deep-compression": Recipe(),
    "light": Recipe(sparsity=0.0, clusters=256, bias_clusters=256, prune_epochs=0, share_epochs=0),
}


def open_recipe(name: str) -> Recipe:
    """A recipe of RECIPES, or of a TOML file of its fields, layers in the tables [sparsities] and [units]."""
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix != ".toml":
        raise SettingsError(
            f"there is no recipe {name!r}; there are {', '.join(RECIPES)}, or give a FILE.toml"
        )
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    return recipe_of(raw, name)


def recipe_of(raw: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from what a TOML file or JSON record holds. SettingsError for unknown keys and wrong types."""
    flat = {key: value for key, value in raw.items() if key not in TABLES}
    tables = {name: _table(raw.get(name, {}), name, source) for name in TABLES}
    return build_settings(Recipe, from_mapping(Recipe, flat, source=source) | tables)


def _table(raw: Any, name: str, source: str) -> tuple[tuple[str, Any], ...]:
    kinds: tuple[type, ...] = (int, float) if name == "sparsities" else (int,)
    if not isinstance(raw, dict) or not all(type(each) in kinds for each in raw.values()):
        raise SettingsError(f"[{name}] in {source} must say a number for each layer it names, not {raw!r}")
    return tuple(raw.items())


def compress(
    spec: ModelSpec,
    params: Params,
    recipe: Recipe,
    examples: Examples | None = None,
    *,
    seed: int = 1,
    tell: Tell | None = None,
) -> Stored:
    """The model as the recipe stores it; with examples it is trained on the way.

    UpdateError for NaN, SettingsError for a layer that is not there, units of a network that is no chain, and
    FedPara's factors: pruning those leaves no sparse weights.
    """
    check_finite(params, "weights")
    if factors := [layer for kind, layer, _ in spec.changes if kind == "fedpara"]:
        raise SettingsError(
            f"layer {factors[0]!r} is a product of FedPara's factors, which are not to be pruned",
            remedy="merge first: fedlite.compress.lowrank.merge(spec, params)",
        )
    chain = spec.name in units.CHAINS
    if recipe.units and not chain:
        raise SettingsError(
            f"{spec.name} is no chain of layers; units go only from {', '.join(units.CHAINS)}"
        )
    kept = units.strongest(params, recipe.units) if recipe.units else None
    small = units.narrow(params, kept) if kept is not None else dict(params)
    changes = spec.changes + (units.sizes(small) if kept is not None else ())
    net = load(build(replace(spec, changes=changes)), small)
    schedule = partial(masks_at, recipe)
    if examples is not None and recipe.prune_epochs:
        say = None if tell is None else partial(_say, tell, "prune")
        small, masks = train_masked(
            net, examples, recipe.pruning(), seed=derive(seed, "prune"), masks_at=schedule, tell=say
        )
    else:
        masks = schedule(small, 1.0)
    live = units.tidied(small, masks) if chain else masks
    learned = {name for name, _ in net.named_parameters()}
    shared = share(small, live, _clusters(small, recipe, learned))
    if examples is not None and recipe.share_epochs:
        say = None if tell is None else partial(_say, tell, "share")
        shared = train_shared(net, shared, examples, recipe.sharing(), seed=derive(seed, "share"), tell=say)
    done = {name: _half(each) if name in learned else each for name, each in shared.items()}
    if kept is not None:
        wide = units.widen({name: each.mask for name, each in done.items()}, kept, params)
        done = {name: replace(each, mask=wide[name]) for name, each in done.items()}
    return Stored(spec.to_json(), done)


def masks_at(recipe: Recipe, params: Params, progress: float) -> Masks:
    """What is live at `progress` in [0, 1]: by `importance` over all layers without a sparsity of their own."""
    own = {f"{layer}.weight": sparsity for layer, sparsity in recipe.sparsities}
    there = {name for name, value in params.items() if prunable(name, value)}
    if odd := sorted(set(own) - there):
        names = ", ".join(sorted(name.removesuffix(".weight") for name in there))
        raise SettingsError(f"the recipe names a layer {odd[0].removesuffix('.weight')!r}; there are {names}")
    rest = {name: importance(params[name]) for name in params if name in there and name not in own}
    masks = magnitude_masks(rest, cubic(progress, recipe.sparsity))
    for name, sparsity in own.items():
        masks |= magnitude_masks({name: params[name]}, cubic(progress, sparsity))
    return masks


def importance(weight: Array) -> Array:
    """Each weight's square over the sum of squares of those of its layer that are no smaller: comparable over layers.

    (Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", equation 4)
    """
    squares = np.square(weight, dtype=np.float64).ravel()
    order = np.argsort(-squares, kind="stable")
    scores = np.empty(squares.shape, np.float64)
    scores[order] = squares[order] / np.maximum(np.cumsum(squares[order]), np.finfo(np.float64).tiny)
    return scores.astype(np.float32).reshape(weight.shape)


def _clusters(params: Params, recipe: Recipe, learned: set[str]) -> dict[str, int]:
    """Of weights, of biases and norms; what a batch norm has measured keeps as many values as there can be."""
    found = {}
    for name, value in params.items():
        matrix = recipe.clusters if prunable(name, value) else recipe.bias_clusters
        found[name] = matrix if name in learned else MOST
    return found


def _half(shared: Shared) -> Shared:
    """Its centroids as float16 holds them: what is evaluated is what is stored."""
    book: Array = shared.codebook.astype(np.float16).astype(np.float32)
    check_finite({"codebook": book}, "centroids in float16")
    return shared.with_codebook(book)


def _say(tell: Tell, stage: str, line: str) -> None:
    tell(f"{stage}  {line}")
