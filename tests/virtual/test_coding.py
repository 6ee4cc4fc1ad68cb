"""A block of clients through a codec gives what the codec gives each of them, to the bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite import aggregate, models
from fedlite.compress.codec import Codec, encode_with_feedback
from fedlite.compress.int8 import Int8
from fedlite.compress.presets import PRESETS, codec_by_name
from fedlite.compress.prune import magnitude_masks
from fedlite.compress.quantize import prepare
from fedlite.compress.topk import TopK
from fedlite.compress.zstd import Zstd
from fedlite.errors import SettingsError, UpdateError
from fedlite.seeds import generator
from fedlite.types import Array, Masks, Params, Result
from fedlite.virtual import coding
from fedlite.virtual.coding import Coded, code_rows, memory_width
from fedlite.virtual.kernel import available, reduce

INT8 = codec_by_name("int8")
CODECS = {
    **{name: codec_by_name(name) for name in PRESETS},
    "int8, uncompressed": Codec(compressors=()),
    "int8, twice": Codec(compressors=(Zstd(1), Zstd(3))),
    "stochastic": Codec(serializer=Int8(stochastic=True)),
    "largest": Codec(filters=(TopK(0.1),)),
    "hysteresis": codec_by_name("threshold:1:0.5+int8+zstd:1"),
    "low rank": codec_by_name("lowrank:2+int8"),
    "some of low rank": codec_by_name("lowrank:3+threshold:1:0.5+randomk:0.5+float32"),
}


def odd() -> tuple[Params, Masks]:
    """Tensors without values, without live values, with a statistic between and rows that are pruned away."""
    shapes = {"a": (3, 40), "a.act_range": (2,), "none": (0, 5), "b": (4, 17), "c": (5, 3, 2), "d": ()}
    like = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    some = np.random.default_rng(3).random((4, 17)) < 0.5
    some[1], some[2] = False, True
    return like, {"a": np.zeros((3, 40), np.bool_), "b": some, "none": np.zeros((0, 5), np.bool_)}


def model(name: str, **options: Any) -> tuple[Params, Masks]:
    params = models.initial_params(prepare(models.build(name, **options)), 3)
    return params, magnitude_masks(params, 0.5)


LIKES: dict[str, Callable[[], tuple[Params, Masks]]] = {
    "mlp": lambda: model("mlp", input_shape=(1, 7, 7), hidden=(33,)),
    "small_cnn": lambda: model("small_cnn", input_shape=(3, 8, 8)),
    "mlp, dense": lambda: (model("mlp", input_shape=(1, 7, 7), hidden=(33,))[0], {}),
    "odd": odd,
    "all pruned": lambda: ({"a": np.zeros((2, 40), np.float32)}, {"a": np.zeros((2, 40), np.bool_)}),
    "nothing": lambda: ({}, {}),
}


def named(row: Array, like: Params) -> dict[str, Array]:
    ends = np.cumsum([value.size for value in like.values()])
    parts = np.split(row.copy(), ends[:-1]) if like else []
    return {name: part.reshape(like[name].shape) for name, part in zip(like, parts, strict=True)}


def flat(update: Params) -> Array:
    return np.concatenate([np.zeros(0, np.float32), *(value.ravel() for value in update.values())])


def drawn(like: Params, clients: int, seed: int) -> Array:
    """Rows of all magnitudes float32 has: a client's own, a spread inside it, some zeros and some −0."""
    random, size = np.random.default_rng(seed), sum(value.size for value in like.values())
    exponents = random.choice([-44, -38, -36, -20, -2, 0, 10, 37], (clients, 1)) - 6 * random.random(
        (clients, size)
    )
    rows = random.standard_normal((clients, size)) * 10**exponents
    rows[random.random((clients, size)) < 0.1] = -0.0
    rows[random.random(clients) < 0.1] = 0
    return rows.astype(np.float32)


def assert_each(
    coded: Coded, codec: Codec, rows: Array, owed: Array | None, like: Params, masks: Masks
) -> None:
    """What the codec itself does, client by client; seeds are 0, 1, 2, …"""
    for b, row in enumerate(rows):
        whole = like | {name: np.zeros(shape, np.float32) for name, shape in codec.memory(like).items()}
        before = None if owed is None else named(owed[b], whole)
        payload, residual = encode_with_feedback(
            codec, named(row, like), before, masks=masks, generator=generator(b, "codec")
        )
        assert coded.finite[b]
        assert coded.sizes[b] == len(payload)
        assert coded.decoded[b].tobytes() == flat(codec.decode(payload, like, masks=masks)).tobytes()
        if coded.residual is None:
            assert codec.lossless
            assert not flat(residual).any()
        else:
            assert set(residual) <= set(whole)
            every = {name: residual.get(name, zeros) for name, zeros in whole.items()}
            assert coded.residual[b].tobytes() == flat(every).tobytes()


@pytest.mark.parametrize("owing", [False, True], ids=["first", "owing"])
@pytest.mark.parametrize("like", LIKES.values(), ids=LIKES)
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_each_client_gets_what_the_codec_gives_it(
    codec: Codec, like: Callable[[], tuple[Params, Masks]], owing: bool
) -> None:
    params, masks = like()
    rows = drawn(params, 12, 1)
    owed = None
    if owing:
        kept = np.random.default_rng(3).normal(size=(12, memory_width(codec, params)))
        owed = np.concatenate([drawn(params, 12, 2), kept.astype(np.float32)], axis=1)
    used = None if owed is None else owed.copy()
    coded = code_rows(codec, rows.copy(), used, like=params, masks=masks, seeds=range(12), threads=2)
    assert_each(coded, codec, rows, owed, params, masks)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=72, max_size=72),
    st.booleans(),
    st.integers(0, 2**40 - 1),
)
def test_any_finite_values_and_any_mask(values: list[float], per_channel: bool, bits: int) -> None:
    like = {
        "w": np.zeros((2, 20), np.float32),
        "w.act_range": np.zeros(2, np.float32),
        "b": np.zeros(30, np.float32),
    }
    masks = {"w": np.array([bits >> i & 1 for i in range(40)], np.bool_).reshape(2, 20)}
    rows = np.array([values, values[::-1]], np.float32)
    codec = Codec(serializer=Int8(per_channel=per_channel))
    coded = code_rows(codec, rows.copy(), None, like=like, masks=masks, seeds=range(2))
    assert_each(coded, codec, rows, None, like, masks)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_one_clients_failure_is_its_own(codec: Codec) -> None:
    """A value that is not finite, pruned or not, or that is too large with what is owed."""
    like, masks = LIKES["odd"]()
    rows, owed = (
        np.full((5, 221), 1, np.float32),
        np.full((5, 221 + memory_width(codec, like)), 1, np.float32),
    )
    rows[1, 3] = np.nan  # in "a", which is pruned
    rows[2, 121] = np.inf  # in "a.act_range"
    rows[3, 220] = owed[3, 220] = 3e38
    for b in (1, 2, 3):
        with pytest.raises(UpdateError):
            encode_with_feedback(
                codec, named(rows[b], like), named(owed[b], like), masks=masks, generator=generator(b)
            )
    coded = code_rows(codec, rows.copy(), owed.copy(), like=like, masks=masks, seeds=range(5))
    assert coded.finite.tolist() == [True, False, False, False, True]
    assert coded.sizes[1:4].tolist() == [0, 0, 0]
    assert not coded.decoded[1:4].any()
    if coded.residual is not None:
        assert (coded.residual[1:4] == owed[1:4]).all()
        fresh = code_rows(codec, rows.copy(), None, like=like, masks=masks, seeds=range(5))
        assert fresh.residual is not None
        assert not fresh.residual[1:3].any()


def test_neither_blocks_nor_threads_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    like, masks = LIKES["mlp"]()
    rows, owed = drawn(like, 30, 4), drawn(like, 30, 5)

    def coded(threads: int) -> list[bytes]:
        got = code_rows(
            INT8,
            rows.copy(),
            owed.copy(),
            like=like,
            masks=masks,
            seeds=range(30),
            threads=threads,
        )
        assert got.residual is not None
        return [got.sizes.tobytes(), got.decoded.tobytes(), got.residual.tobytes()]

    wanted = coded(1)
    monkeypatch.setattr(coding, "AT_ONCE", 5000)  # a few clients at once
    assert coded(1) == coded(3) == wanted


def test_zeros_owed_are_nothing_owed() -> None:
    like, masks = LIKES["small_cnn"]()
    rows = np.random.default_rng(0).standard_normal(
        (3, sum(value.size for value in like.values())), np.float32
    )
    first, second = (
        code_rows(INT8, rows.copy(), owed, like=like, masks=masks, seeds=range(3))
        for owed in (None, np.zeros_like(rows))
    )
    assert first.residual is not None
    assert second.residual is not None
    assert (first.sizes == second.sizes).all()
    assert (first.decoded == second.decoded).all()
    assert (first.residual == second.residual).all()


def test_nobody_gets_nothing() -> None:
    like, masks = LIKES["mlp"]()
    rows = np.zeros((0, sum(value.size for value in like.values())), np.float32)
    for codec in CODECS.values():
        assert code_rows(codec, rows, None, like=like, masks=masks, seeds=[]).sizes.tolist() == []


def test_without_a_compiler_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client by client, and sums and maxima by NumPy."""
    like, masks = LIKES["mlp"]()
    rows, owed = drawn(like, 5, 6), drawn(like, 5, 7)
    weights, total = np.array([3.0, 1, 4, 1, 5]), np.ones(rows.shape[1])
    assert available() is None
    compiled = reduce.largest_rows(rows), total.copy()
    reduce.add_rows(compiled[1], rows, weights)
    for module in (coding, reduce):
        monkeypatch.setattr(module, "available", lambda: "there is no compiler")
    coded = code_rows(INT8, rows.copy(), owed.copy(), like=like, masks=masks, seeds=range(5))
    assert_each(coded, INT8, rows, owed, like, masks)
    reduce.add_rows(total, rows, weights)
    assert total.tobytes() == compiled[1].tobytes()
    assert reduce.largest_rows(rows).tobytes() == compiled[0].tobytes()


def test_a_mask_that_does_not_fit_is_refused() -> None:
    like = {"w": np.zeros((2, 3), np.float32)}
    for codec in CODECS.values():
        with pytest.raises(SettingsError):
            code_rows(
                codec,
                np.zeros((1, 6), np.float32),
                None,
                like=like,
                masks={"w": np.ones(6, np.bool_)},
                seeds=[0],
            )


@pytest.mark.parametrize("clients", [1, 4, 7])
@pytest.mark.parametrize("threads", [1, 3])
def test_sums_are_those_of_clients_one_by_one(clients: int, threads: int) -> None:
    """Weights with more bits than a float32 leaves room for, so that a fused addition would show."""
    random = np.random.default_rng(clients)
    like = {"a": np.zeros((250, 101), np.float32), "b": np.zeros(3, np.float32)}
    rows = random.standard_normal((clients, 25253), np.float32)
    weights = random.integers(2**40, 2**50, clients)
    total, wanted = np.zeros(25253), aggregate.start(like)
    for half in (slice(0, clients // 2), slice(clients // 2, clients)):
        reduce.add_rows(total, rows[half], weights[half].astype(np.float64), threads)
    for row, weight in zip(rows, weights, strict=True):
        wanted = aggregate.add(wanted, Result("", named(row, like), int(weight)))
    assert total.tobytes() == np.concatenate([value.ravel() for value in wanted.sums.values()]).tobytes()


def test_the_largest_of_each_row() -> None:
    rows = np.random.default_rng(0).standard_normal((6, 1000), np.float32)
    rows[1] = -0.0
    rows[2, 999] = -np.inf
    rows[3, 0] = np.nan
    rows[4, 500] = -1e-45
    for threads in (1, 4):
        np.testing.assert_array_equal(reduce.largest_rows(rows, threads), np.abs(rows).max(axis=1))
