"""Filters: what they keep, what they remember, and that they leave small tensors alone."""

import numpy as np
import pytest

from fedlite.compress.codec import Codec, encode_with_feedback
from fedlite.compress.float32 import Float32
from fedlite.compress.powersgd import LowRank
from fedlite.compress.presets import codec_by_name
from fedlite.compress.randomk import RandomK
from fedlite.compress.scramble import scrambled, smallest
from fedlite.compress.slots import Filter
from fedlite.compress.threshold import Threshold
from fedlite.compress.topk import TopK
from fedlite.errors import SettingsError
from fedlite.types import Array

FILTERS = [
    TopK(0.1),
    TopK(0.1, per_layer=True),
    RandomK(0.1),
    RandomK(0.1, unbiased=True),
    Threshold(2, 1),
    LowRank(3),
]


def exact(*filters: Filter) -> Codec:
    """What filters do, and nothing else."""
    return Codec(filters, Float32(planar=False), ())


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def through(codec: Codec, update: dict[str, Array], seed: int = 0, **masks: np.ndarray) -> dict[str, Array]:
    return codec.decode(codec.encode(update, masks=masks, generator=chance(seed)), update, masks=masks)


def two(seed: int = 0) -> dict[str, Array]:
    rng = chance(seed)
    return {
        "a": rng.normal(size=(40, 50)).astype(np.float32),
        "b": rng.normal(size=(30, 4, 3, 3)).astype(np.float32) * 3,
        "short": rng.normal(size=(31, 33)).astype(np.float32),
        "long": rng.normal(size=5000).astype(np.float32),
        "long.running_mean": rng.normal(size=10).astype(np.float32),
    }


@pytest.mark.parametrize("chosen", FILTERS, ids=repr)
def test_small_and_one_dimensional_tensors_and_statistics_pass_untouched(chosen: Filter) -> None:
    update = two()
    got = through(exact(chosen), update)
    for name in ("short", "long", "long.running_mean"):
        np.testing.assert_array_equal(got[name], update[name])
    assert not np.array_equal(got["a"], update["a"])
    only = {"w": update["long"]}
    np.testing.assert_array_equal(through(exact(chosen), only)["w"], only["w"])


def test_top_k_keeps_the_largest_of_all_matrices_or_of_each() -> None:
    """2000 and 1080 weights: a tenth is 308 of all, 200 and 108 of each; b's are three times as large."""
    update = two()
    got = through(exact(TopK(0.1)), update)
    sizes = np.abs(np.concatenate([update["a"].ravel(), update["b"].ravel()]))
    least = np.sort(sizes)[-308]
    for name in ("a", "b"):
        np.testing.assert_array_equal(got[name], np.where(np.abs(update[name]) >= least, update[name], 0))
    each = through(exact(TopK(0.1, per_layer=True)), update)
    assert [int((each[name] != 0).sum()) for name in ("a", "b")] == [200, 108]
    assert np.abs(update["a"])[each["a"] == 0].max() <= np.abs(update["a"])[each["a"] != 0].min()


def test_top_k_chooses_among_live_weights() -> None:
    update, mask = two(), chance(1).random((40, 50)) < 0.6
    got = through(exact(TopK(0.1, per_layer=True)), update, a=mask)
    assert int((got["a"] != 0).sum()) == -(-mask.sum() // 10)
    assert not got["a"][~mask].any()


def test_splitmix_is_the_published_one() -> None:
    """The first outputs for the seed 1234567, as in the reference implementation's test vector."""
    found = scrambled((1234567).to_bytes(8, "little"), 0, 5)
    assert found.tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    np.testing.assert_array_equal(scrambled((1234567).to_bytes(8, "little"), 3, 5), found[3:])


def test_random_k_sends_the_chosen_as_they_are_and_their_places_cost_eight_bytes() -> None:
    update, codec = two(), exact(RandomK(0.05))
    payload = codec.encode(update, generator=chance())
    assert len(payload) == 20 + 8 + 4 * (100 + 54 + 31 * 33 + 5000 + 10)
    got = codec.decode(payload, update)
    for name, count in (("a", 100), ("b", 54)):
        kept = got[name] != 0
        assert int(kept.sum()) == count
        np.testing.assert_array_equal(got[name][kept], update[name][kept])
    other = codec.decode(codec.encode(update, generator=chance(1)), update)
    assert 0 < ((other["a"] != 0) & (got["a"] != 0)).sum() < 30  # 5 expected


def test_unbiased_random_k_is_the_update_in_the_mean() -> None:
    """Each weight is kept in a quarter of 400 draws, times 4: a deviation of √3 · |w| / 20."""
    update = {"w": np.abs(two()["a"]) + 1}
    codec = exact(RandomK(0.25, unbiased=True))
    mean = sum(through(codec, update, seed)["w"].astype(np.float64) for seed in range(400)) / 400
    deviations = (mean / update["w"] - 1) / (3**0.5 / 20)
    assert abs(deviations.mean()) < 5 / 2000**0.5
    assert np.abs(deviations).max() < 6


def test_all_of_random_k_is_the_update() -> None:
    update = two()
    got = through(exact(RandomK(1.0)), update)
    for name, value in update.items():
        np.testing.assert_array_equal(got[name], value)


def test_a_threshold_keeps_what_it_kept_until_it_is_clearly_small() -> None:
    """Root mean square 1: 3 is sent at 2; then 1.5 stays where it was sent, and is not sent where it was not."""
    codec = exact(Threshold(2, 1))
    first, second, third = (np.full((40, 50), 0.9, np.float32) for _ in range(3))
    first[0, :2], second[0, :3], third[0, :3] = (3, -3), (1.5, -0.5, 1.5), 1.5
    first[0, 9] = second[0, 9] = third[0, 9] = 20  # beside it, nothing else is large
    residual: dict[str, Array] | None = None
    sent = []
    for each in (first, second, third):
        value = each / np.sqrt((each.astype(np.float64) ** 2).mean()).astype(np.float32)
        if residual is not None:  # so that what is filtered is the value itself
            value = value - residual["w"]
        payload, residual = encode_with_feedback(codec, {"w": value}, residual)
        got = codec.decode(payload, {"w": value})["w"]
        sent.append(got[0, :3] != 0)
        assert got[0, 9] > 0
        assert not got[1:].any()
    np.testing.assert_array_equal(sent, [[True, True, False], [True, False, False], [True, False, False]])
    assert residual is not None
    assert residual["~threshold.w"].sum() == 2


def test_where_weights_are_even_three_quarters_of_the_largest_is_enough() -> None:
    """All ±1 but a few of 0.7: none is two root mean squares, and yet what is owed must go some time."""
    value = np.where(chance().random((40, 50)) < 0.9, 1, 0.7).astype(np.float32)
    got = through(exact(Threshold(2, 1)), {"w": value})["w"]
    np.testing.assert_array_equal(got, np.where(value == 1, 1, 0))


def test_what_a_threshold_remembers_is_by_weight_so_masks_may_change() -> None:
    codec = exact(Threshold(2, 1))
    value = np.full((40, 50), 0.5, np.float32)
    value[0, 7] = 9
    _, residual = encode_with_feedback(codec, {"w": value}, None)
    mask = np.ones((40, 50), bool)
    mask[0, :5] = False
    again = np.full((40, 50), 0.5, np.float32)
    again[0, 7] = 0.8  # above one root mean square, below two
    payload, after = encode_with_feedback(codec, {"w": again - residual["w"]}, residual, masks={"w": mask})
    got = codec.decode(payload, {"w": value}, masks={"w": mask})["w"]
    assert np.flatnonzero(got).tolist() == [7]
    assert after["~threshold.w"].shape == (40, 50)


def test_low_rank_sends_a_matrix_of_low_rank_exactly_and_in_fewer_numbers() -> None:
    rng = chance(3)
    product = (rng.normal(size=(64, 2)) @ rng.normal(size=(2, 90))).astype(np.float32)
    update, codec = {"w": product.reshape(64, 10, 9)}, exact(LowRank(2))
    payload = codec.encode(update, generator=chance())
    assert len(payload) == 20 + 4 * 2 * (64 + 90)
    np.testing.assert_allclose(codec.decode(payload, update)["w"], update["w"], atol=1e-4)


def test_a_warm_start_converges_to_the_best_of_that_rank() -> None:
    """Rounds on one matrix: from a random start to within 1 % of the singular vectors' own error (Eckart-Young)."""
    rng = chance(4)
    left, right = (np.linalg.qr(rng.normal(size=(n, 40)))[0] for n in (60, 50))
    matrix = (left * 0.8 ** np.arange(40) @ right.T).astype(np.float32)
    best = float(np.sqrt((0.8 ** (2 * np.arange(4, 40))).sum()))
    codec, residual, errors = exact(LowRank(4)), None, []
    for _ in range(12):
        if residual is not None:
            residual["w"] = np.zeros_like(matrix)
        payload, residual = encode_with_feedback(codec, {"w": matrix}, residual, generator=chance())
        errors.append(float(np.linalg.norm(codec.decode(payload, {"w": matrix})["w"] - matrix)))
    assert errors[0] > 1.05 * best
    assert errors[-1] < 1.01 * best


def test_low_rank_under_a_mask_is_zero_where_pruned() -> None:
    mask = chance(5).random((40, 50)) < 0.8
    update = {"w": two()["a"]}
    got = through(exact(LowRank(4)), update, w=mask)["w"]
    assert not got[~mask].any()
    assert (got[mask] != 0).all()


def test_low_rank_factors_survive_coarse_steps_beside_other_tensors() -> None:
    """One step for factors and small tensors alike: the update's direction is kept."""
    rng = chance(6)
    update = {
        "w": (0.003 * rng.normal(size=(64, 1)) @ rng.normal(size=(1, 90))).astype(np.float32),
        "bias": (0.001 * rng.normal(size=64)).astype(np.float32),
    }
    codec = codec_by_name("lowrank:2+step:0.005+ans")
    got = through(codec, update)
    for name, value in update.items():
        cosine = float((got[name] * value).sum() / np.linalg.norm(got[name]) / np.linalg.norm(value))
        assert cosine > 0.99
    assert len(codec.encode(update, generator=chance())) < 600


def test_filters_can_follow_one_another() -> None:
    update = two()
    codec = exact(LowRank(3), TopK(0.5, per_layer=True))
    assert set(codec.memory(update)) == {"~lowrank.a", "~lowrank.b"}
    assert codec.memory(update)["~lowrank.b"] == (36, 3)
    assert np.isfinite(through(codec, update)["a"]).all()
    assert codec.key == "lowrank:3+plain"


@pytest.mark.parametrize("chosen", [Threshold(2, 1), LowRank(3)], ids=repr)
def test_memory_is_what_the_codec_says_and_of_another_shape_it_is_forgotten(chosen: Filter) -> None:
    update, codec = two(), exact(chosen)
    _, residual = encode_with_feedback(codec, update, None, generator=chance())
    kept = {name: value.shape for name, value in residual.items() if name.startswith("~")}
    assert kept == codec.memory(update)
    assert all(value.dtype == np.float32 for value in residual.values())
    strange = residual | {name: np.ones((2, 3), np.float32) for name in kept}
    for before in (strange, {name: residual[name] for name in update}):
        _, again = encode_with_feedback(codec, update, before, generator=chance())
        assert {name: value.shape for name, value in again.items() if name.startswith("~")} == kept
    _, bare = encode_with_feedback(exact(TopK(0.5)), update, residual)
    assert not any(name.startswith("~") for name in bare)


@pytest.mark.parametrize("count", [1, 2, 1000, 65_536, 149_999, 150_000])
def test_the_smallest_numbers_of_several_blocks_are_those_of_a_sort(count: int) -> None:
    seed, begin, end = bytes(range(8)), 7, 150_007
    order = np.argsort(scrambled(seed, begin, end))
    np.testing.assert_array_equal(np.flatnonzero(smallest(seed, begin, end, count)), np.sort(order[:count]))


def test_nonsense_is_refused() -> None:
    for fraction in (0.0, -1.0, 1.1, float("nan")):
        for make in (TopK, RandomK):
            with pytest.raises(SettingsError, match="fraction"):
                make(fraction)
    for high, low in ((1, 2), (0, 0), (1, -1), (float("nan"), 0), (float("inf"), 0)):
        with pytest.raises(SettingsError, match="thresholds"):
            Threshold(high, low)
    for rank in (0, 65, 1.5):
        with pytest.raises(SettingsError, match="rank"):
            LowRank(rank)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="once"):
        codec_by_name("topk:0.1+topk-layer:0.1+int8")
    for chosen in (RandomK(0.1), LowRank(2)):
        with pytest.raises(SettingsError, match="generator"):
            exact(chosen).encode(two())
