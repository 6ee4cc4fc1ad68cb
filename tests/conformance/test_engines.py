"""What every engine must do: the rows of local training, whoever is trained beside whom, each failure its own."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from fedlite import models
from fedlite.apps.model import fit
from fedlite.compress.prune import magnitude_masks
from fedlite.errors import DataError
from fedlite.models.registry import resolve
from fedlite.modules import module_of
from fedlite.tensors import apply_masks, subtract
from fedlite.train import local_train
from fedlite.train_settings import TrainSettings
from fedlite.virtual.engines.base import Engine, Share, Work
from fedlite.virtual.engines.compiled import Compiled
from fedlite.virtual.engines.loop import Loop
from fedlite.virtual.engines.pool import Pool
from fedlite.virtual.rows import to_row
from fedlite.virtual.samples import Picked, Samples
from tests.virtual import local_ray

ENGINES: dict[str, Callable[[Share], Engine]] = {
    "loop": Loop,
    "compiled": lambda share: Compiled(share, 2),
    "pool of 1": lambda share: Pool(share, 1),
    "pool of 3": lambda share: Pool(share, 3),
    "ray": lambda share: local_ray.engine(),
}
SHAPE = (1, 8, 8)
CLIENTS, SEEDS = [4, 0, 7, 2, 5], [11, 12, 13, 14, 15]
EMPTY, ODD, RAISING, OUTSIDE, BEFORE, APART = 90, 91, 92, 93, 94, 95
SHARED = 1000


def share(client: int) -> Samples | Picked:
    """Unequal clients; one has nothing, one has labels the model does not know, one cannot be read.

    From SHARED on, they have the samples of 0 and up, as places in arrays that they share.
    """
    if client == APART:
        x, y, places, _ = picked(SHARED + 1)
        return Picked(x, y, np.stack([places, places * 0], axis=1)[:, 0])
    if client >= SHARED or client in (OUTSIDE, BEFORE):
        return picked(client)
    return own(client)


def picked(client: int) -> Picked:
    """Among those of three clients in a row."""
    parts = [own(each) for each in range(3)]
    x, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    ends = np.cumsum([len(part[1]) for part in parts])
    which = client - SHARED if client >= SHARED else 0
    places = np.arange(ends[which] - len(parts[which][1]), ends[which])
    return Picked(x, y, places + {OUTSIDE: ends[-1], BEFORE: -1}.get(client, 0))


def own(client: int) -> Samples:
    """Arrays of its own."""
    random = np.random.default_rng(client)
    count = 0 if client == EMPTY else 5 + 3 * client % 11
    if client == RAISING:
        raise DataError("client 92's file is damaged")
    y = random.integers(0, 10, count) + (100 if client == ODD else 0)
    return random.random((count, *SHAPE), np.float32), y


def work(name: str = "small_cnn", **settings: object) -> Work:
    """A pruned model, its masks."""
    spec = resolve(name, fit(name, SHAPE, 10)).to_json()
    chosen = TrainSettings(**{"epochs": 2, "batch_size": 4, "bits": 32, "learning_rate": 0.05} | settings)
    params = models.initial_params(module_of(spec, chosen.bits), 1)
    masks = magnitude_masks(params, 0.4)
    return Work(spec, apply_masks(params, masks), masks, chosen)


@pytest.fixture(params=ENGINES, ids=str)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = ENGINES[request.param](share)
    yield made
    made.close()


@pytest.mark.parametrize("name", ["linear", "2nn", "small_cnn"])
def test_rows_are_local_training(engine: Engine, name: str) -> None:
    given = work(name, momentum=0.5)
    done = engine.train(given, CLIENTS, SEEDS)
    for place, (client, seed) in enumerate(zip(CLIENTS, SEEDS, strict=True)):
        x, y = own(client)
        module = module_of(given.model, 32)
        alone = local_train(module, given.params, x, y, given.settings, seed=seed, masks=given.masks)
        wanted = to_row(subtract(alone.params, given.params))
        np.testing.assert_allclose(done.updates[place], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
        assert done.loss[place] == pytest.approx(alone.loss, rel=1e-5)
        assert (done.accuracy[place], done.counts[place]) == (alone.accuracy, len(y))
    assert done.failed == {}


@pytest.mark.parametrize("bits", [32, 8])
def test_neighbours_and_order_do_not_show(engine: Engine, bits: int) -> None:
    given = work(bits=bits)
    together = engine.train(given, CLIENTS, SEEDS)
    for place in (3, 0):
        alone = engine.train(given, [CLIENTS[place]], [SEEDS[place]])
        np.testing.assert_array_equal(alone.updates[0], together.updates[place])
        assert (alone.loss[0], alone.accuracy[0]) == (together.loss[place], together.accuracy[place])


def test_one_clients_failure_is_its_own(engine: Engine) -> None:
    given = work()
    well = engine.train(given, [1, 2, 3], [1, 2, 3])
    done = engine.train(given, [1, EMPTY, 2, ODD, RAISING, 3], [1, 9, 2, 9, 9, 3])
    np.testing.assert_array_equal(done.updates[[0, 2, 5]], well.updates)
    assert list(done.counts[[0, 2, 5]]) == list(well.counts)
    assert sorted(done.failed) == [1, 3, 4]
    assert "no samples" in done.failed[1]
    assert "the model has classes 0 to 9" in done.failed[3]
    assert "damaged" in done.failed[4]


def test_samples_are_read_where_they_lie(engine: Engine) -> None:
    given = work()
    copied = engine.train(given, [0, 1, 2], [7, 8, 9])
    shared = engine.train(given, [SHARED, SHARED + 1, SHARED + 2], [7, 8, 9])
    np.testing.assert_array_equal(shared.updates, copied.updates)
    np.testing.assert_array_equal(shared.loss, copied.loss)


def test_places_may_lie_apart(engine: Engine) -> None:
    """Client 1001's places with others between them, beside a client with arrays of its own."""
    given = work()
    plain = engine.train(given, [0, SHARED + 1], [7, 8])
    apart = engine.train(given, [0, APART], [7, 8])
    np.testing.assert_array_equal(apart.updates, plain.updates)


@pytest.mark.parametrize("client", [OUTSIDE, BEFORE])
def test_places_that_are_none_fail(engine: Engine, client: int) -> None:
    done = engine.train(work(), [client, SHARED], [1, 2])
    assert list(done.failed) == [0]
    assert "places run to" in done.failed[0]


def test_all_may_fail(engine: Engine) -> None:
    done = engine.train(work(), [EMPTY, ODD], [1, 2])
    assert sorted(done.failed) == [0, 1]


def test_nobody_is_no_work(engine: Engine) -> None:
    given = work()
    assert engine.train(given, [], []).updates.shape == (0, sum(v.size for v in given.params.values()))
    assert json.loads(given.model)
