"""Synthetic federated data: every client has a task and inputs of its own, made from its seed when asked for.

SYNTHETIC(α, β) of FedProx (Li et al. 2020, §5.1, after Shamir et al. 2014): client k labels by its own linear
model, y = argmax(W_k x + b_k), whose entries are N(u_k, 1) with u_k ~ N(0, α); its inputs are N(v_k, Σ) with Σ
diagonal, Σ_jj = j^−1.2, and v_k of entries N(B_k, 1), B_k ~ N(0, β). As in the authors' program α and β are
standard deviations, and a client has ⌊exp(N(4, 2))⌋ + 50 samples.

β sets how far clients' inputs lie apart. α, though meant to do so for models, leaves the labels as they are: u_k is
added to the score of every class alike. Models differ by the unit variance of their entries, at any α.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlite import draws
from fedlite.data.base import Dataset, Labels
from fedlite.errors import DataError
from fedlite.seeds import generator
from fedlite.types import Array

Share = tuple[Array, Labels]

LARGEST = 50_000  # samples of one client; the lognormal law of FedProx exceeds it once in 3000
POOL = 8  # samples made for each one kept where the classes are skewed
TEST_CLIENTS = 500  # whose samples make up the test data
FORM = (
    "synthetic:ALPHA,BETA or synthetic:iid, then any of :features=N :classes=N :sizes=lognormal|N|power,EXPONENT"
    " :labels=CONCENTRATION :rotate=DEGREES :shift=DEVIATION"
)


@dataclass(frozen=True)
class Recipe:
    """What clients' data are like; the same recipe and seed give the same data.

    `iid`: one W and b for all, entries N(0, 1), and v = 0 (FedProx, §5.1); alpha and beta do nothing then.
    `sizes`: `lognormal` as FedProx; a number, for all; `power,E`: at least 10, more than n with probability
    (10/n)^(E−1), E > 1.
    `label_skew` > 0: a client's classes follow a mix drawn from Dir(label_skew, …) as far as its task allows; 0
    leaves them as they come. `rotate` and `shift` change inputs after they are labelled: pairs of features are
    turned by an angle N(0, rotate degrees), and an offset with entries N(0, shift) is added, one of each a client.
    """

    alpha: float = 1.0
    beta: float = 1.0
    iid: bool = False
    features: int = 60
    classes: int = 10
    sizes: str = "lognormal"
    label_skew: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        """DataError for values out of range."""
        for name in ("alpha", "beta", "label_skew", "rotate", "shift"):
            if not 0 <= getattr(self, name) < math.inf:
                raise DataError(f"{name} of synthetic data is {getattr(self, name)}; at least 0 wanted")
        if not 1 <= self.features <= 2**20 or not 2 <= self.classes <= 2**16:
            raise DataError(
                f"{self.features} features and {self.classes} classes; at least 1 and 2 wanted, at most 2^20 and 2^16"
            )
        _quantile(self.sizes)


def parse(spec: str) -> Recipe:
    """The recipe that FORM describes. DataError, with the form, for anything else."""
    parts = spec.split(":")
    if parts[0] != "synthetic" or len(parts) < 2:
        raise DataError(f"{spec!r} is not {FORM}")
    try:
        if parts[1] == "iid":
            recipe = Recipe(iid=True)
        else:
            alpha, beta = parts[1].split(",")
            recipe = Recipe(float(alpha), float(beta))
        given = dict(part.split("=") for part in parts[2:])
        if len(given) < len(parts) - 2:
            raise ValueError("an option is given twice")
        return replace(recipe, **{_NAMES[key][0]: _NAMES[key][1](text) for key, text in given.items()})
    except (ValueError, KeyError) as error:
        raise DataError(f"{spec!r} is not {FORM}") from error


_NAMES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "features": ("features", int),
    "classes": ("classes", int),
    "sizes": ("sizes", str),
    "labels": ("label_skew", float),
    "rotate": ("rotate", float),
    "shift": ("shift", float),
}


@dataclass(frozen=True)
class Lazy:
    """The data of `num_clients` clients, none of which exist until they are asked for, nor are kept."""

    recipe: Recipe
    num_clients: int
    seed: int

    def __post_init__(self) -> None:
        """DataError for no clients."""
        if self.num_clients < 1:
            raise DataError(f"{self.num_clients} clients; at least 1 wanted", remedy="give --clients")

    def __len__(self) -> int:
        return self.num_clients

    @property
    def num_classes(self) -> int:
        """Of every client's labels, though a client may have few."""
        return self.recipe.classes

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many samples each client has, shape (num_clients,): made anew whenever it is read."""
        return self.sizes_of(np.arange(self.num_clients))

    def sizes_of(self, clients: ArrayLike) -> NDArray[np.int64]:
        """How many samples these clients have, 1 … LARGEST."""
        sizes = _quantile(self.recipe.sizes)(self._stream, np.asarray(clients, dtype=np.int64))
        return np.asarray(np.minimum(sizes, LARGEST), dtype=np.int64)

    def share(self, client: int) -> Share:
        """A client's (x, y): float32 (n, features), int64 (n,). DataError for a client there is not."""
        return self._samples(client, int(self.sizes_of(client)), "train")

    def test(self, count: int) -> Dataset:
        """`count` ≥ 1 new samples, as many from each of TEST_CLIENTS clients, or of all where there are fewer.

        The clients lie evenly spread over the fleet; remainders go to the first ones.
        """
        if count < 1:
            raise DataError(f"{count} test samples asked; at least 1 wanted")
        asked = min(TEST_CLIENTS, self.num_clients, count)
        each = [count // asked + (place < count % asked) for place in range(asked)]
        shares = [
            self._samples(place * self.num_clients // asked, size, "test") for place, size in enumerate(each)
        ]
        x, y = (np.concatenate(parts) for parts in zip(*shares, strict=True))
        return Dataset(x, y, self.recipe.classes, "synthetic")

    def _samples(self, client: int, count: int, split: str) -> Share:
        if not 0 <= client < self.num_clients:
            raise DataError(f"there is no client {client}; there are {self.num_clients}")
        recipe = self.recipe
        task = generator(self.seed, "synthetic", "task", client)
        weights, bias, centre = self._common if recipe.iid else _task(recipe, task)
        rng = generator(self.seed, "synthetic", split, client)
        pool = count * POOL if recipe.label_skew else count
        noise = rng.standard_normal((pool, recipe.features), dtype=np.float32)
        x = centre + _deviations(recipe.features) * noise
        y = np.argmax(x @ weights + bias, axis=1).astype(np.int64)
        if recipe.label_skew:
            kept = _skewed(recipe, task, rng, y, count)
            x, y = x[kept], y[kept]
        return _moved(recipe, task, x), y

    @cached_property
    def _common(self) -> tuple[Array, Array, Array]:
        """The one task of all clients: u = 0 and v = 0."""
        plain = replace(self.recipe, alpha=0.0, beta=0.0)
        weights, bias, centre = _task(plain, generator(self.seed, "synthetic", "task"))
        return weights, bias, np.zeros_like(centre)

    @cached_property
    def _stream(self) -> draws.Bits:
        return draws.stream(self.seed, "synthetic", "sizes")


def open_synthetic(spec: str, num_clients: int, seed: int) -> Lazy:
    """The data that `spec` describes, see FORM. DataError for another spec, or no clients."""
    return Lazy(parse(spec), num_clients, seed)


def _task(recipe: Recipe, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """(W (features, classes), b (classes,), v (features,)) of a client."""
    model_mean = np.float32(rng.normal(0, recipe.alpha))
    input_mean = np.float32(rng.normal(0, recipe.beta))
    weights = rng.standard_normal((recipe.features, recipe.classes), dtype=np.float32) + model_mean
    bias = rng.standard_normal(recipe.classes, dtype=np.float32) + model_mean
    centre = rng.standard_normal(recipe.features, dtype=np.float32) + input_mean
    return weights, bias, centre


def _deviations(features: int) -> Array:
    """√Σ_jj = j^−0.6."""
    return np.arange(1, features + 1, dtype=np.float32) ** np.float32(-0.6)


def _skewed(
    recipe: Recipe, task: np.random.Generator, rng: np.random.Generator, y: Labels, count: int
) -> NDArray[np.int64]:
    """`count` places of y, drawn without replacement so that classes follow the client's own mix.

    A class's samples share its part of the mix as their weight; the largest of log-weight + Gumbel noise are a
    weighted draw without replacement (Efraimidis & Spirakis 2006, in logarithms).
    """
    mix = task.dirichlet(np.full(recipe.classes, recipe.label_skew))
    there = np.bincount(y, minlength=recipe.classes)
    weight = np.log(np.maximum(mix[y], 1e-300) / there[y])
    order = np.argsort(-(weight + rng.gumbel(size=len(y))), kind="stable")
    return np.sort(order[:count])


def _moved(recipe: Recipe, task: np.random.Generator, x: Array) -> Array:
    """x turned and shifted as this client sees it; a feature without a partner is not turned."""
    if recipe.rotate:
        angle = np.deg2rad(task.normal(0, recipe.rotate))
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        paired = x.shape[1] // 2 * 2
        left, right = x[:, 0:paired:2].copy(), x[:, 1:paired:2].copy()
        x[:, 0:paired:2], x[:, 1:paired:2] = cos * left - sin * right, sin * left + cos * right
    if recipe.shift:
        x = x + np.float32(recipe.shift) * task.standard_normal(x.shape[1], dtype=np.float32)
    return x


def _quantile(sizes: str) -> Callable[[draws.Bits, NDArray[np.int64]], NDArray[np.float64]]:
    """The law of sizes by name: (stream, clients) → sizes. DataError for another."""
    kind, _, text = sizes.partition(",")
    if sizes == "lognormal":
        return lambda stream, clients: np.floor(np.exp(4 + 2 * draws.normal(stream, clients))) + 50
    try:
        number = float(text) if kind == "power" else float(int(sizes))
    except ValueError:
        number = 0.0
    if kind == "power" and 1 < number < math.inf:
        return lambda stream, clients: np.floor(
            10 * np.exp(draws.exponential(stream, clients) / (number - 1))
        )
    if kind != "power" and 1 <= number <= LARGEST:
        return lambda stream, clients: np.full(clients.shape, number)
    raise DataError(
        f"sizes is {sizes!r}; lognormal, a whole number from 1 to {LARGEST}, or power,E with E > 1 wanted"
    )
