"""Flower Datasets' own partitioners, run for real, divide our data."""

import numpy as np
import pytest
from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, NaturalIdPartitioner

from fedlite.data.adapters import from_flwr_datasets
from fedlite.data.base import Dataset
from fedlite.data.partition import split
from fedlite.errors import DataError


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    y, keys = rng.integers(0, 10, 600), rng.integers(0, 7, 600)
    return Dataset(np.zeros((600, 2), np.float32), y, 10, "made", keys)


def test_a_partitioner_object_divides_exactly(data: Dataset) -> None:
    parts = from_flwr_datasets(DirichletPartitioner(5, "label", alpha=0.5, seed=1), data)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(600))
    assert len(parts) == 5


def test_its_natural_clients_are_ours(data: Dataset) -> None:
    theirs = from_flwr_datasets(NaturalIdPartitioner("key"), data)
    ours = split(data, "natural", 0, 0)
    for left, right in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("scheme", "num_clients"),
    [
        ("flwr:IidPartitioner", 6),
        ("flwr:DirichletPartitioner:alpha=0.3,min_partition_size=2", 6),
        ("flwr:NaturalIdPartitioner", 7),
        (
            "flwr:PathologicalPartitioner:num_classes_per_partition=2,class_assignment_mode=deterministic",
            10,
        ),
    ],
)
def test_a_scheme_names_a_partitioner(data: Dataset, scheme: str, num_clients: int) -> None:
    parts = split(data, scheme, num_clients, 3)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(600))
    for again, part in zip(split(data, scheme, num_clients, 3), parts, strict=True):
        np.testing.assert_array_equal(again, part)


def test_pathological_clients_have_the_classes_asked(data: Dataset) -> None:
    scheme = "flwr:PathologicalPartitioner:num_classes_per_partition=3,class_assignment_mode=deterministic"
    assert {len(np.unique(data.y[part])) for part in split(data, scheme, 10, 0)} == {3}


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("NoPartitioner", "has no partitioner 'NoPartitioner'; it has .*DirichletPartitioner"),
        ("Partitioner", "has no partitioner"),
        ("__doc__", "has no partitioner"),
        ("IidPartitioner:colour=3", "has no option 'colour'; it has num_partitions"),
        ("IidPartitioner:colour", "is not NAME:option=value"),
        ("DirichletPartitioner", "alpha"),
        ("DirichletPartitioner:alpha=-1", "refuses its options"),
        ("DirichletPartitioner:alpha=much", "refuses its options"),
        ("VerticalEvenPartitioner", "cannot divide these data"),
        ("NaturalIdPartitioner", "makes 7 partitions, 3 clients asked"),
        ("NaturalIdPartitioner:partition_by=age", "cannot divide these data"),
    ],
)
def test_what_flower_cannot_divide_is_refused(data: Dataset, argument: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        split(data, f"flwr:{argument}", 3, 0)


def test_a_used_partitioner_is_refused(data: Dataset) -> None:
    used = IidPartitioner(3)
    from_flwr_datasets(used, data)
    with pytest.raises(DataError, match="assigned only once"):
        from_flwr_datasets(used, data)
