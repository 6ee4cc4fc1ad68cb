"""`--data`: a data set, a part of one, or a path, in one word."""

import re
from pathlib import Path

import numpy as np

from fedlite.data.base import Dataset, Labels, Stored, holdout
from fedlite.data.datasets import KEY_NAMES, NAMES, Split, load_stored
from fedlite.data.own import FORMS, load_own_stored
from fedlite.data.partition import split as partition_split
from fedlite.errors import DataError

_PART = re.compile(r"(\d{1,9})/(\d{1,9})")
_PICK = re.compile(r"([a-z]+)=(\d{1,18})")


def open_data(
    spec: str, *, split: Split = "train", partition: str = "iid", seed: int = 0, data_dir: Path | None = None
) -> Dataset:
    """The samples that `spec` names.

    * `digits`: a whole data set. `digits:0/3`: part 0 of 3 by `partition` and `seed` (see `partition.split`).
    * `mnist:writer=17`, `motionsense:subject=3`, `shakespeare:role=5`, `…:key=17`: the samples of one key.
    * A path (see `own.load_own`), also with `:0/3` or `:key=17`. `PATH/train` and `PATH/test` are the splits where
      both folders exist; elsewhere one in five of each class is the test split (`base.holdout`).

    Raises DataError, which lists what is possible, when the spec is of none of these forms or has no samples.
    """
    name, _, rest = spec.partition(":")
    if name in NAMES:
        whole = load_stored(name, split, data_dir)
    else:
        name, rest = _path_and_rest(spec)
        whole = _own(Path(name), split)
    if spec == name:
        return whole.open()
    if part := _PART.fullmatch(rest):
        return whole.take(_part(whole, int(part[1]), int(part[2]), partition, seed)).open()
    if (pick := _PICK.fullmatch(rest)) and pick[1] in ("key", KEY_NAMES.get(name)):
        return whole.take(_pick(whole, int(pick[2]), spec)).open()
    raise DataError(f"{spec!r} has an unknown part {rest!r}; possible are {_possible(name)}")


def describe(dataset: Dataset) -> str:
    """One line for people: how many samples, of what shape, and how they spread over the classes."""
    classes, counts = np.unique(dataset.y, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:10] if len(classes) > 10 else range(len(classes))
    spread = " ".join(f"{classes[place]}:{counts[place]}" for place in order)
    more = " …" if len(classes) > 10 else ""
    shape = "x".join(str(length) for length in dataset.x.shape[1:])
    return (
        f"{dataset.name}: {len(dataset)} samples of {shape} {dataset.x.dtype}, "
        f"{len(classes)} of {dataset.num_classes} classes ({spread}{more})"
    )


def _path_and_rest(spec: str) -> tuple[str, str]:
    """A path, and the part after its last colon where that is `0/3` or `key=17`."""
    head, _, tail = spec.rpartition(":")
    whole, rest = (head, tail) if head and (_PART.fullmatch(tail) or _PICK.fullmatch(tail)) else (spec, "")
    plain = Path(re.sub(r"(?<=\.csv):[^/\\]*$", "", whole))
    if not whole or not (Path(whole).exists() or plain.exists()):
        raise DataError(
            f"{spec!r} is neither a data set nor a path; give one of {', '.join(NAMES)}, or {FORMS}"
        )
    return whole, rest


def _own(path: Path, split: Split) -> Stored:
    if (path / "train").is_dir() and (path / "test").is_dir():
        return load_own_stored(path / split)
    whole = load_own_stored(path)
    chosen = holdout(whole.y, split)
    if not len(chosen):
        raise DataError(
            f"{path} has too few samples for a {split} split", remedy="give at least 3 of a class"
        )
    return whole.take(chosen)


def _part(whole: Stored, part: int, of: int, partition: str, seed: int) -> Labels:
    if part >= of:
        possible = f"0/{of} to {of - 1}/{of}" if of else "0/1 and up"
        raise DataError(f"there is no part {part} of {of}; possible are {possible}")
    chosen = partition_split(whole, partition, of, seed)[part]
    if not len(chosen):
        raise DataError(f"part {part} of {of} by {partition} has no samples")
    return chosen


def _pick(whole: Stored, key: int, spec: str) -> Labels:
    if whole.keys is None:
        raise DataError(f"{spec!r}: these data have no natural keys")
    chosen = np.flatnonzero(whole.keys == key)
    if not len(chosen):
        keys = np.unique(whole.keys)
        raise DataError(f"{spec!r} has no samples; there are {len(keys)} keys from {keys[0]} to {keys[-1]}")
    return chosen


def _possible(name: str) -> str:
    forms = [name, f"{name}:0/3 (a part)"]
    key = KEY_NAMES.get(name, "key")
    return ", ".join([*forms, f"{name}:{key}=1 (a natural key, where the data have them)"])
