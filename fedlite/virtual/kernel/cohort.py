"""A cohort's samples as the kernel reads them: where they lie, checked, and copied only where it could not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError
from fedlite.virtual.kernel.plan import address, addresses
from fedlite.virtual.samples import Picked, Samples, Taken


@dataclass(frozen=True, eq=False)
class Cohort:
    """Of each client: addresses of its x, its y, its teacher's logits, its places in them; how many those are."""

    x: NDArray[np.uint64]
    y: NDArray[np.uint64]
    teacher: NDArray[np.uint64] | None
    places: NDArray[np.uint64]
    counts: NDArray[np.int64]
    alive: Sequence[NDArray[Any]]  # what the addresses are of


def cohort(data: Sequence[Samples | Picked], shape: tuple[int, ...], classes: int) -> Cohort:
    """The samples of at least one client, examples of `shape`. DataError as `local_train`'s."""
    return _shared(data, shape, classes) or _apart([checked(each, shape, classes) for each in data])


def _apart(clients: "Sequence[Checked]") -> Cohort:
    counts = np.array([client.count for client in clients], np.int64)
    places = [
        np.arange(each.count) if each.places is None else np.ascontiguousarray(each.places)
        for each in clients
    ]
    x, y = [client.x for client in clients], [client.y for client in clients]
    lessons = [client.teacher for client in clients if client.teacher is not None]
    taught = addresses(lessons) if len(lessons) == len(clients) else None
    return Cohort(addresses(x), addresses(y), taught, addresses(places), counts, [*x, *y, *lessons, *places])


def _shared(data: Sequence[Samples | Picked], shape: tuple[int, ...], classes: int) -> Cohort | None:
    """All clients' at once, if they are places in one pair of arrays and nothing is wrong with them."""
    first = data[0]
    picked = [each for each in data if isinstance(each, Picked) and each.x is first[0] and each.y is first[1]]
    if len(picked) < len(data) or any(each.teacher is not picked[0].teacher for each in picked):
        return None
    x, y = picked[0].x, picked[0].y
    counts = np.array([len(each.chosen) for each in picked], np.int64)
    places = np.concatenate([each.chosen for each in picked])
    whole = Picked(x, y, places, picked[0].teacher)
    if counts.min() == 0 or not _readable(whole) or x.shape[1:] != shape or x.dtype != np.float32:
        return None
    labels = y[places]
    if labels.min() < 0 or labels.max() >= classes:
        return None
    if whole.teacher is not None and whole.teacher.shape != (len(x), classes):
        return None
    starts = (address(places) + places.itemsize * (np.cumsum(counts) - counts)).astype(np.uint64)
    same = np.ones(len(data), np.uint64)
    taught = same * np.uint64(address(whole.teacher)) if whole.teacher is not None else None
    alive = [each for each in whole if each is not None]
    return Cohort(same * np.uint64(address(x)), same * np.uint64(address(y)), taught, starts, counts, alive)


@dataclass(frozen=True, eq=False)
class Checked:
    """A client's data as the kernel reads them: of x and y, the `count` examples at `places`, or the first ones."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    places: NDArray[np.int64] | None
    count: int
    teacher: NDArray[np.float32] | None = None


def checked(samples: Samples | Taken | Picked, shape: tuple[int, ...], classes: int) -> Checked:
    """The client's data, copied only where the kernel could not read them as they lie. DataError as `local_train`'s."""
    if isinstance(samples, Picked) and not _readable(samples):
        samples = samples.taken()
    x, y = samples[:2]
    teacher = samples.teacher if isinstance(samples, Taken | Picked) else None
    if teacher is not None and teacher.shape != (len(x), classes):
        raise DataError(f"the teacher's logits are {teacher.shape}, {(len(x), classes)} wanted")
    labels = y[samples.chosen] if isinstance(samples, Picked) else y
    count = len(labels)
    if count == 0 or not (isinstance(samples, Picked) or len(x) == count):
        raise DataError(
            f"there are {len(x)} examples and {count} labels; as many of both, at least one, wanted"
        )
    if labels.ndim != 1:
        raise DataError(f"labels are {labels.shape}, one number for each example wanted")
    if x.shape[1:] != shape or x.dtype != np.float32:
        raise DataError(f"the cohort's examples are float32 {shape}, these are {x.dtype} {x.shape[1:]}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"labels run from {low} to {high}; the model has classes 0 to {classes - 1}")
    places = samples.chosen if isinstance(samples, Picked) else None
    lessons = np.ascontiguousarray(teacher, np.float32) if teacher is not None else None
    return Checked(np.ascontiguousarray(x), np.ascontiguousarray(y, np.int64), places, count, lessons)


def _readable(samples: Picked) -> bool:
    """Whether the kernel can read these examples where they lie."""
    x, y, chosen, teacher = samples
    fits = (
        len(chosen) > 0 and chosen.dtype == np.int64 and chosen.min() >= 0 and chosen.max() < len(x) == len(y)
    )
    if teacher is not None:
        fits = fits and teacher.dtype == np.float32 and teacher.flags.c_contiguous
    return bool(fits and x.flags.c_contiguous and y.flags.c_contiguous and y.dtype == np.int64)
