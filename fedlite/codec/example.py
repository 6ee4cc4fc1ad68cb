"""A real update to code: what one client's training changes in a model that others have begun to train."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fedlite.data.base import Dataset, Labels
from fedlite.data.spec import open_data
from fedlite.errors import DataError, SettingsError
from fedlite.models.bridge import initial_params
from fedlite.models.registry import Option, build, resolve
from fedlite.models.words import spec_of_text
from fedlite.seeds import derive, generator
from fedlite.tensors import subtract
from fedlite.train import local_train
from fedlite.train_settings import TrainSettings
from fedlite.types import Params, Update

OTHERS = 5  # times as many samples train the model before
SETTINGS = TrainSettings(epochs=1, batch_size=10, learning_rate=0.05)
SKEW = 0.3  # Dirichlet's alpha: how unlike clients' classes are
_DATA = {
    "sensor_cnn": "motionsense",
    "char_lstm": "shakespeare",
    "text_gru": "sms_spam",
    "text_lstm": "sms_spam",
    "text_transformer": "sms_spam",
}


@dataclass(frozen=True, eq=False)
class Example:
    """An update, local − global, of the model that `title` names."""

    title: str
    trained_on: str
    params: Params
    update: Update

    @property
    def parameters(self) -> int:
        """All of the model's values."""
        return sum(value.size for value in self.update.values())


def make(model: str, dataset: str, data_dir: Path | None, samples: int, seed: int) -> Example:
    """The update of a client with so many samples, in one epoch, in batches of 10, at learning rate 0.05.

    Its classes are Dirichlet(0.3). Before it, five times as many samples of all classes train the model for an epoch.
    Without `dataset` the data are what suits the model: digits, enlarged to the model's own input, wherever it takes
    images. DataError or SettingsError for a model or data that there are not, or that do not go together.
    """
    torch.set_num_threads(1)
    family = model.partition(":")[0]
    resolve(family, {})  # an unknown model is said before the data are opened
    data = open_data(dataset or _DATA.get(family, "digits"), split="train", data_dir=data_dir)
    if not dataset:
        data = _enlarged(data, model)
    options: Mapping[str, Option] = {"input_shape": data.x.shape[1:], "num_classes": data.num_classes}
    spec = spec_of_text(model, options if data.x.dtype == np.float32 else {})
    module, rng = build(spec), generator(seed, "samples")
    params: Params = initial_params(module, derive(seed, "model"))
    order = rng.permutation(len(data))
    others = order[: min(OTHERS * samples, len(data) // 2)]
    mine = _skewed(data, order[len(others) :], samples, rng)
    for name, part in (("others", others), ("client", mine)):
        before = params
        done = local_train(module, before, data.x[part], data.y[part], SETTINGS, seed=derive(seed, name))
        params = done.params
    update = subtract(params, before)
    if not all(np.isfinite(value).all() for value in update.values()):
        raise SettingsError(f"training {model} diverged", remedy="try another --seed or --dataset")
    shape = "x".join(map(str, data.x.shape[1:]))
    return Example(spec.name, f"{len(mine)} samples of {data.name}, {shape}", before, update)


def _enlarged(data: Dataset, model: str) -> Dataset:
    """Images as large as the model's own input is, by repeating pixels and channels."""
    family, _, rest = model.partition(":")
    own = dict(spec_of_text(model, {}).options if "input_shape" in rest else resolve(family, {}).options)
    shape = own.get("input_shape")
    if data.x.ndim != 4 or not isinstance(shape, tuple) or len(shape) != 3:
        return data
    axes = [np.arange(want) * have // want for want, have in zip(shape, data.x.shape[1:], strict=True)]
    picked = data.x[:, axes[0]][:, :, axes[1]][:, :, :, axes[2]]
    return replace(data, x=np.ascontiguousarray(picked))


def _skewed(data: Dataset, pool: Labels, samples: int, rng: np.random.Generator) -> Labels:
    """So many of `pool`, or all, in Dirichlet proportions of classes: the likelier first. (Hsu et al. 2019, §3)"""
    if len(pool) == 0:
        raise DataError(f"{data.name} has {len(data)} samples; at least 2 are wanted")
    share = np.maximum(rng.dirichlet(np.full(data.num_classes, SKEW)), 1e-12)
    labels = data.y[pool]
    chance = share[labels] / np.maximum(np.bincount(labels, minlength=data.num_classes)[labels], 1)
    count = min(samples, len(pool), math.ceil(len(pool) / 2))
    return rng.choice(pool, count, replace=False, p=chance / chance.sum())
