"""How samples are divided among clients: each belongs to one client; with `dirichlet:ALPHA:EACH` also to none."""

import math

import numpy as np
from numpy.typing import NDArray

from fedlite.data.base import Dataset, Labels, Stored
from fedlite.errors import DataError
from fedlite.seeds import generator

Parts = list[NDArray[np.int64]]

SCHEMES = "iid, dirichlet:ALPHA, dirichlet:ALPHA:EACH, shards:S, natural, flwr:PARTITIONER"
_REMEDY = "give another --partition or --clients"
LEAST = 2  # samples that the Dirichlet scheme leaves each client at least


def split(source: Dataset | Stored | Labels, scheme: str, num_clients: int | None, seed: int) -> Parts:
    """Sorted sample indices of each client; the same arguments always give the same parts.

    * `iid`: shuffled and cut into equal parts (sizes differ by one at most).
    * `dirichlet:ALPHA`: see `dirichlet`; `dirichlet:ALPHA:EACH`: see `dirichlet_each`.
    * `shards:S` (S is 2 when left out): see `shards`.
    * `natural`: by the data set's keys, see `natural`; 0 or None clients means one per key.
    * `flwr:NAME` or `flwr:NAME:option=value,…`: a partitioner of Flower Datasets, see `adapters`.

    Raises DataError for an unknown scheme or a number of clients that the samples cannot serve.
    """
    kind, _, argument = scheme.partition(":")
    y, keys = (source, None) if isinstance(source, np.ndarray) else (source.y, source.keys)
    if kind == "natural" and not argument:
        return natural(keys, num_clients)
    if num_clients is None or num_clients < 1:
        raise DataError(
            f"{num_clients} clients asked; {scheme!r} needs a number of at least 1", remedy=_REMEDY
        )
    if kind == "iid" and not argument:
        return iid(len(y), num_clients, seed)
    if kind == "dirichlet" and ":" in argument:
        alpha, _, each = argument.partition(":")
        return dirichlet_each(
            y, _number(scheme, alpha), int(_number(scheme, each, whole=True)), num_clients, seed
        )
    if kind == "dirichlet":
        return dirichlet(y, _number(scheme, argument), num_clients, seed)
    if kind == "shards":
        return shards(y, int(_number(scheme, argument or "2", whole=True)), num_clients, seed)
    if kind == "flwr":
        from fedlite.data.adapters import from_scheme

        return from_scheme(argument, y, keys, num_clients, seed)
    raise DataError(f"there is no partition scheme {scheme!r}; there are {SCHEMES}", remedy=_REMEDY)


def iid(num_samples: int, num_clients: int, seed: int) -> Parts:
    """Equal parts of a shuffle. Needs a sample per client."""
    _need(num_samples, num_clients, num_clients)
    shuffled = generator(seed, "partition", "iid").permutation(num_samples)
    return [np.sort(part) for part in np.array_split(shuffled, num_clients)]


def dirichlet(y: Labels, alpha: float, num_clients: int, seed: int) -> Parts:
    """Each class is divided among the clients in proportions drawn from Dir(alpha, …, alpha).

    Small alpha: a class lies with few clients; large alpha: every client has every class. (Yurochkin et al.
    2019, §4; the meaning of alpha is that of Hsu et al. 2019.) Clients left with fewer than 2 samples are
    filled up to 2 from the largest ones, at random, instead of drawing again: at 1,000 clients no draw
    would do. Needs 2 samples per client.
    """
    _need(len(y), LEAST * num_clients, num_clients)
    rng = generator(seed, "partition", "dirichlet")
    classes, counts = np.unique(y, return_counts=True)
    shares = rng.dirichlet(np.full(num_clients, alpha), size=len(classes))
    if not np.isfinite(shares).all():
        raise DataError(
            f"no proportions can be drawn at alpha {alpha}; use one between 0.001 and 1000", remedy=_REMEDY
        )
    owner = np.empty(len(y), dtype=np.int64)
    for label, count, share in zip(classes, counts, shares, strict=True):
        cuts = np.rint(np.cumsum(share)[:-1] * count)
        owner[rng.permutation(np.flatnonzero(y == label))] = np.searchsorted(
            cuts, np.arange(count), side="right"
        )
    return _by_owner(_fill(owner, num_clients, rng), num_clients)


def dirichlet_each(y: Labels, alpha: float, each: int, num_clients: int, seed: int) -> Parts:
    """Every client has `each` samples, of classes in proportions of its own, drawn from Dir(alpha, …, alpha).

    Samples that nobody draws are left out. A class that is used up is no longer drawn from: its share goes to the
    others. (Hsu et al. 2019, §3.1, with a uniform prior.) Raises DataError for fewer than `each` · clients samples.
    """
    _need(len(y), each * num_clients, num_clients)
    rng = generator(seed, "partition", "dirichlet", each)
    classes = np.unique(y)
    left = [rng.permutation(np.flatnonzero(y == label)) for label in classes]
    parts = []
    for _ in range(num_clients):
        shares = rng.dirichlet(np.full(len(classes), alpha))
        mine: list[NDArray[np.int64]] = []
        wanted = each
        while wanted:
            there = np.array([len(some) > 0 for some in left])
            weights = np.where(there, np.maximum(shares, 1e-9), 0)
            counts = rng.multinomial(wanted, weights / weights.sum())
            for place, count in enumerate(counts.tolist()):
                mine.append(left[place][:count])
                wanted -= len(mine[-1])
                left[place] = left[place][count:]
        parts.append(np.sort(np.concatenate(mine)))
    return parts


def shards(y: Labels, per_client: int, num_clients: int, seed: int) -> Parts:
    """Sorted by label, cut into equal shards, `per_client` shards to each client (McMahan et al. 2017, §3).

    Clients × `per_client` shards are cut, so a client has few classes: a shard spans two where it lies on
    the border between them. Needs a sample per shard.
    """
    count = per_client * num_clients
    _need(len(y), count, num_clients)
    dealt = generator(seed, "partition", "shards").permutation(count)
    pieces = np.array_split(np.argsort(y, kind="stable"), count)
    owners = np.repeat(np.arange(num_clients), per_client)
    owner = np.empty(len(y), dtype=np.int64)
    owner[np.concatenate([pieces[place] for place in dealt])] = np.repeat(
        owners, [len(pieces[place]) for place in dealt]
    )
    return _by_owner(owner, num_clients)


def natural(keys: Labels | None, num_clients: int | None) -> Parts:
    """One client per key in the order of the keys (0 or None clients), or whole keys dealt to fewer clients.

    Dealing: the keys from the one with most samples to the one with fewest go to client 0, 1, …, 0, 1, ….
    """
    if keys is None:
        raise DataError(
            "these data have no natural keys; mnist, motionsense, shakespeare and .npz with keys do",
            remedy=_REMEDY,
        )
    unique, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    num_clients = num_clients or len(unique)
    if not 0 < num_clients <= len(unique):
        raise DataError(
            f"{num_clients} clients asked, the data have {len(unique)} natural keys", remedy=_REMEDY
        )
    client_of = np.arange(len(unique))
    if num_clients < len(unique):
        client_of[np.argsort(-counts, kind="stable")] = np.arange(len(unique)) % num_clients
    return _by_owner(client_of[place.reshape(-1)], num_clients)


def _by_owner(owner: NDArray[np.int64], num_clients: int) -> Parts:
    """Sorted indices of each owner 0 … num_clients − 1."""
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=num_clients))
    return np.split(order, ends[:-1])


def _fill(owner: NDArray[np.int64], num_clients: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Move samples of the largest clients, drawn at random, to those with fewer than LEAST."""
    sizes = np.bincount(owner, minlength=num_clients)
    needs = np.maximum(LEAST - sizes, 0)
    gives = _levelled(sizes, int(needs.sum()))
    shuffled = rng.permutation(len(owner))
    order = shuffled[np.argsort(owner[shuffled], kind="stable")]
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within its client
    filled = owner.copy()
    filled[order[place < np.repeat(gives, sizes)]] = np.repeat(np.arange(num_clients), needs)
    return filled


def _levelled(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """How many each gives so that `total` are given and the largest sizes become as level as can be."""
    low, high = 0, int(sizes.max())
    while low < high:  # the highest level above which at least `total` lie
        level = (low + high + 1) // 2
        low, high = (level, high) if np.maximum(sizes - level, 0).sum() >= total else (low, level - 1)
    gives: NDArray[np.int64] = np.maximum(sizes - low, 0)
    spare = int(gives.sum()) - total
    gives[np.flatnonzero(gives)[:spare]] -= 1
    return gives


def _need(num_samples: int, wanted: int, num_clients: int) -> None:
    if num_samples < wanted:
        raise DataError(
            f"{num_samples} samples cannot serve {num_clients} clients; at least {wanted} are needed",
            remedy="use fewer clients or more data",
        )


def _number(scheme: str, text: str, *, whole: bool = False) -> float:
    """The positive number after the colon of a scheme."""
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not (value > 0 and math.isfinite(value)):
        raise DataError(
            f"{scheme!r} needs a positive {'whole ' if whole else ''}number after its colon", remedy=_REMEDY
        )
    return value
