"""Partitioners of Flower Datasets (`flwr-datasets`) as ours. Needs the extra `fedlite[partition]`."""

import inspect
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.base import Dataset, Labels, Stored
from fedlite.errors import DataError

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

LABEL, KEY, INDEX = "label", "key", "index"  # the columns a partitioner sees; there are no samples in them

_MISSING = "pip install fedlite[partition]"


def from_flwr_datasets(partitioner: "Partitioner", source: Dataset | Stored) -> list[NDArray[np.int64]]:
    """Sorted sample indices of each partition that a fresh Flower partitioner makes of `source`.

    It sees the columns `label` and, where the data have keys, `key`: give it `partition_by="label"` or
    `"key"`. Raises DataError when it cannot divide these data, leaves a partition empty, or gives a sample
    twice; samples it leaves out are left out.
    """
    return _indices(partitioner, source.y, source.keys)


def from_scheme(
    argument: str, y: Labels, keys: Labels | None, num_clients: int, seed: int
) -> list[NDArray[np.int64]]:
    """`DirichletPartitioner:alpha=0.3,min_partition_size=2` and the like; values are JSON or plain words.

    `num_partitions`, `partition_by` (`label`, or `key` for natural identifiers) and `seed` are filled in
    where the partitioner has them and the options do not.
    """
    name, _, listed = argument.partition(":")
    cls = _partitioner_class(name)
    known = inspect.signature(cls).parameters
    by = KEY if "NaturalId" in name else LABEL
    filled = {"num_partitions": num_clients, "partition_by": by, "seed": seed % 2**32}
    options = {key: value for key, value in filled.items() if key in known} | _options(listed, argument)
    if odd := sorted(set(options) - set(known)):
        raise DataError(f"{name} has no option {odd[0]!r}; it has {', '.join(known)}")
    try:
        partitioner = cls(**options)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} refuses its options: {error}") from error
    parts = _indices(partitioner, y, keys)
    if len(parts) != num_clients:
        raise DataError(f"{name} makes {len(parts)} partitions, {num_clients} clients asked")
    return parts


def _partitioner_class(name: str) -> Any:
    try:
        from flwr_datasets import partitioner
    except ImportError as error:
        raise DataError("flwr-datasets is not installed", remedy=_MISSING) from error
    if name not in partitioner.__all__ or name == "Partitioner":
        raise DataError(
            f"Flower Datasets has no partitioner {name!r}; it has {', '.join(partitioner.__all__)}"
        )
    return getattr(partitioner, name)


def _options(listed: str, argument: str) -> dict[str, Any]:
    options = {}
    for pair in listed.split(",") if listed else ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise DataError(f"{argument!r} is not NAME:option=value,option=value")
        try:
            options[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            options[key.strip()] = value
    return options


def _indices(partitioner: Any, y: Labels, keys: Labels | None) -> list[NDArray[np.int64]]:
    try:
        from datasets import Dataset as Table
    except ImportError as error:
        raise DataError("flwr-datasets is not installed", remedy=_MISSING) from error
    columns = {LABEL: y, INDEX: np.arange(len(y))} | ({} if keys is None else {KEY: keys})
    try:
        partitioner.dataset = Table.from_dict(columns)
        parts = [
            np.sort(np.asarray(partitioner.load_partition(place)[INDEX], dtype=np.int64))
            for place in range(partitioner.num_partitions)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{type(partitioner).__name__} cannot divide these data: {error}") from error
    if not parts or not all(len(part) for part in parts):
        raise DataError(f"{type(partitioner).__name__} leaves a partition empty")
    if np.bincount(np.concatenate(parts), minlength=len(y)).max() > 1:
        raise DataError(f"{type(partitioner).__name__} gives a sample to two partitions")
    return parts
