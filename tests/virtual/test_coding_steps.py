"""Blocks of clients through the compiled step and ANS: bit for bit, and byte for byte, the codec's."""

from pathlib import Path

import numpy as np
import pytest

from fedlite import models
from fedlite.compress.ans import Ans
from fedlite.compress.codec import Codec
from fedlite.compress.prune import magnitude_masks
from fedlite.compress.step import Step
from fedlite.compress.topk import TopK
from fedlite.compress.zstd import Zstd
from fedlite.train import local_train
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Masks, Params
from fedlite.virtual import coding
from fedlite.virtual.coding import code_rows
from tests.virtual.test_coding import assert_each, drawn, flat

STEPS = {
    "2": Step(2.0),
    "4": Step(4.0),
    "fine": Step(0.05),  # hardly a zero, and magnitudes beyond those with symbols of their own
    "finest": Step(2e-5),  # beyond the largest level
    "coarse": Step(64.0),  # hardly a level
    "without a dead zone": Step(1.0, 0.5),
    "nothing but the dead zone": Step(1.0, 1.0),
    "a wide dead zone": Step(4.0, 0.9),
}
SHAPES = {
    "wide.weight": (30, 200),
    "wide.bias": (30,),
    "norm.running_mean": (40,),  # with the next, enough statistics for a code
    "norm.running_var": (40,),
    "few.weight": (9, 7),
    "deep.weight": (16, 3, 5, 5),
    "deep.bias": (16,),
    "narrow.weight": (700, 2),
}


@pytest.fixture
def compiled_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the codec itself was called")

    monkeypatch.setattr(coding, "_one_by_one", never)


def like() -> Params:
    return {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def some_masks(seed: int) -> Masks:
    """Few, half and most pruned; rows and columns without anything; one tensor whole, one not at all there."""
    random, masks = np.random.default_rng(seed), {}
    for name, kept in (("wide.weight", 0.3), ("few.weight", 0.6), ("narrow.weight", 0.9)):
        masks[name] = random.random(SHAPES[name]) < kept
    masks["wide.weight"][4:7], masks["wide.weight"][:, 60:70] = False, False
    return masks | {"deep.weight": np.ones((16, 3, 5, 5), np.bool_), "deep.bias": np.zeros(16, np.bool_)}


def products(clients: int, seed: int, spread: float) -> Array:
    """Rows of which matrices are an outer product and noise: rows and columns of very different sizes."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(clients):
        update = {}
        for name, shape in SHAPES.items():
            sides = (shape[0], int(np.prod(shape[1:], dtype=np.int64)))
            outer = np.outer(*(np.exp(spread * random.standard_normal(side)) for side in sides))
            update[name] = (outer * random.laplace(size=sides)).reshape(shape).astype(np.float32)
        rows.append(flat(update))
    return np.stack(rows)


@pytest.mark.usefixtures("compiled_only")
@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_structured_updates(step: Step, masked: bool) -> None:
    codec, masks = Codec((), step, (Ans(),)), some_masks(1) if masked else {}
    for seed, spread in enumerate((0.0, 0.7, 2.5)):
        rows, owed = products(4, seed, spread), products(4, seed + 10, spread)
        coded = code_rows(
            codec, rows.copy(), owed.copy(), like=like(), masks=masks, seeds=range(4), threads=2
        )
        assert_each(coded, codec, rows, owed, like(), masks)


@pytest.mark.usefixtures("compiled_only")
@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
def test_every_magnitude_and_nothing(masked: bool) -> None:
    """From subnormal to the largest float32, all of one value, one value alone, zeros of both signs."""
    codec, masks = Codec((), Step(), (Ans(),)), some_masks(2) if masked else {}
    rows = drawn(like(), 12, 3)
    rows[0], rows[1], rows[2], rows[3], rows[4] = 0, -0.0, 3e38, 1e-45, -1e-36
    rows[5:7] = 0
    rows[5, 777] = 1
    rows[6, :6000], rows[6, 6000:6030] = 1e-30, 1e30  # a matrix and its bias
    coded = code_rows(codec, rows.copy(), None, like=like(), masks=masks, seeds=range(12), threads=2)
    assert_each(coded, codec, rows, None, like(), masks)


@pytest.mark.usefixtures("compiled_only")
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("deviations", [2.0, 4.0])
def test_trained_updates(deviations: float, sparsity: float, data_dir: Path) -> None:
    images = np.load(data_dir / "fashion_mnist" / "fashion_mnist.npz")
    x, y = images["x_train"][:180].reshape(-1, 1, 28, 28).astype(np.float32) / 255, images["y_train"][:180]
    model = models.build("mlp", input_shape=(1, 28, 28), hidden=(64,))
    params = models.initial_params(model, 1)
    masks = magnitude_masks(params, sparsity) if sparsity else {}
    updates = []
    for client in range(3):
        mine, settings = (
            slice(60 * client, 60 * client + 60),
            TrainSettings(learning_rate=0.05, batch_size=20),
        )
        learned = local_train(
            model, params, x[mine], y[mine].astype(np.int64), settings, seed=client, masks=masks
        )
        updates.append(flat(learned.params) - flat(params))
    rows = np.stack(updates).astype(np.float32)
    codec = Codec((), Step(deviations), (Ans(),))
    first = code_rows(codec, rows.copy(), None, like=params, masks=masks, seeds=range(3))
    assert_each(first, codec, rows, None, params, masks)
    assert first.residual is not None
    owed = first.residual.copy()
    second = code_rows(codec, rows.copy(), owed.copy(), like=params, masks=masks, seeds=range(3), threads=3)
    assert_each(second, codec, rows, owed, params, masks)


@pytest.mark.usefixtures("compiled_only")
def test_many_lanes_and_neither_threads_nor_neighbours_change_a_bit() -> None:
    model = {"w": np.zeros((300, 700), np.float32), "b": np.zeros(300, np.float32)}
    rows = np.random.default_rng(1).standard_t(2, (5, 210300)).astype(np.float32)
    codec = Codec((), Step(0.5), (Ans(),))
    one = code_rows(codec, rows.copy(), None, like=model, masks={}, seeds=range(5))
    four = code_rows(codec, rows.copy(), None, like=model, masks={}, seeds=range(5), threads=4)
    alone = code_rows(codec, rows[2:3].copy(), None, like=model, masks={}, seeds=[2])
    assert one.sizes.tolist() == four.sizes.tolist()
    assert one.decoded.tobytes() == four.decoded.tobytes()
    assert one.decoded[2].tobytes() == alone.decoded[0].tobytes()
    assert one.sizes[2] == alone.sizes[0]
    assert_each(one, codec, rows, None, model, {})


def test_what_is_not_compiled_goes_client_by_client() -> None:
    rows = products(2, 1, 0.5)
    for codec in (
        Codec((TopK(0.1),), Step(), (Ans(),)),
        Codec((), Step(), (Zstd(1),)),
        Codec((), Step(), ()),
        Codec((), Step(), (Ans(), Zstd(1))),
    ):
        coded = code_rows(codec, rows.copy(), None, like=like(), masks={}, seeds=range(2))
        assert_each(coded, codec, rows, None, like(), {})
