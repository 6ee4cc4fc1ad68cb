"""SYNTHETIC(α, β) has the published recipe's statistics; skews do what their names say; nothing is held."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.data.synthetic import LARGEST, Lazy, Recipe, open_synthetic, parse
from fedlite.errors import DataError


def classes_held(data: Lazy, clients: range) -> float:
    return float(np.mean([len(np.unique(data.share(client)[1])) for client in clients]))


@settings(max_examples=30, deadline=None)
@given(
    spec=st.sampled_from(
        [
            "synthetic:1,1",
            "synthetic:0,0.5",
            "synthetic:iid",
            "synthetic:1,0:labels=0.3:rotate=20:shift=1:sizes=30",
        ]
    ),
    seed=st.integers(0, 2**63 - 1),
    client=st.integers(0, 999_999),
)
def test_a_client_is_the_same_whenever_it_is_asked_for(spec: str, seed: int, client: int) -> None:
    x, y = open_synthetic(spec, 1_000_000, seed).share(client)
    again = open_synthetic(spec, client + 1, seed).share(client)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert x.shape == (len(y), 60)
    assert len(y) == open_synthetic(spec, 1_000_000, seed).sizes_of(client)
    assert 0 <= y.min() <= y.max() < 10
    np.testing.assert_array_equal(again[0], x)
    np.testing.assert_array_equal(again[1], y)


def test_clients_and_seeds_differ() -> None:
    data = open_synthetic("synthetic:0,0:sizes=5", 10, 1)
    assert not np.array_equal(data.share(0)[0], data.share(1)[0])
    assert not np.array_equal(data.share(0)[0], open_synthetic("synthetic:0,0:sizes=5", 10, 2).share(0)[0])


def test_a_million_clients_hold_nothing() -> None:
    data = open_synthetic("synthetic:1,1", 1_000_000, 0)
    data.share(999_999)
    assert sum(sys.getsizeof(value) for value in vars(data).values()) < 1000
    assert data.sizes.shape == (len(data),)


def test_sizes_are_50_and_a_lognormal() -> None:
    """⌊exp(N(4, 2))⌋ + 50: the median is ⌊e⁴⌋ + 50 = 104, the 84th percentile e⁶ + 50 = 453, the 16th e² + 50 = 57."""
    sizes = open_synthetic("synthetic:1,1", 200_000, 0).sizes
    assert sizes.min() == 50
    assert np.median(sizes) == pytest.approx(104, abs=1)
    assert np.percentile(sizes, 84.13) == pytest.approx(453, rel=0.02)
    assert np.percentile(sizes, 15.87) == pytest.approx(57, abs=1)
    assert sizes.max() == LARGEST


def test_sizes_by_other_laws() -> None:
    """P(n > 20) = (10/20)^(E − 1) = 1/4 at E = 3."""
    assert set(open_synthetic("synthetic:1,1:sizes=60", 50, 0).sizes.tolist()) == {60}
    power = open_synthetic("synthetic:1,1:sizes=power,3", 100_000, 0).sizes
    assert power.min() == 10
    assert (power >= 20).mean() == pytest.approx(0.25, abs=0.007)


def test_inputs_have_the_recipes_variances() -> None:
    """Within a client Σ_jj = j^−1.2, uncorrelated. 20,000 samples: a variance is known to 1 %, five of them."""
    x, _ = open_synthetic("synthetic:1,1:sizes=20000", 3, 0).share(1)
    np.testing.assert_allclose(x.var(axis=0), np.arange(1, 61) ** -1.2, rtol=0.05)
    off = np.corrcoef(x.T) - np.eye(60)
    assert np.abs(off).max() < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_centres_spread_by_beta(beta: float) -> None:
    """v_k ~ N(B_k, 1), B_k ~ N(0, β): a client's mean over 60 features has variance β² + 1/60 across clients.

    Of 1,500 clients: known to 3.7 %, four of them. Within a client the entries of v have variance 1.
    """
    data = open_synthetic(f"synthetic:1,{beta}:sizes=64", 1500, 0)
    centres = np.array([data.share(client)[0].mean(axis=0) for client in range(1500)])
    noise = (np.arange(1, 61) ** -1.2 / 64).mean()
    assert centres.mean(axis=1).var() == pytest.approx(beta**2 + 1 / 60, rel=0.15)
    assert centres.var(axis=1, ddof=1).mean() == pytest.approx(1 + noise, rel=0.03)


def test_labels_are_a_linear_model_of_each_clients_own() -> None:
    """Least squares on half of a client's labels predicts the rest; its commonest class is not another's."""
    data = open_synthetic("synthetic:1,0:sizes=4000", 40, 3)
    own, commonest_elsewhere = [], []
    for client in range(8):
        (x, y), (_, far_y) = data.share(client), data.share(client + 8)
        centre = x[:2000].mean(axis=0)
        design = np.c_[x[:2000] - centre, np.ones(2000)]
        weights = np.linalg.lstsq(design, np.eye(10)[y[:2000]], rcond=None)[0]
        commonest = np.bincount(y[:2000]).argmax()
        own.append(
            float((np.argmax(np.c_[x[2000:] - centre, np.ones(2000)] @ weights, axis=1) == y[2000:]).mean())
        )
        commonest_elsewhere.append(float((far_y == commonest).mean()))
    assert np.mean(own) > 0.8
    assert np.mean(commonest_elsewhere) < 0.5


def test_alpha_does_not_change_one_clients_labels_but_how_its_model_lies() -> None:
    """u_k is added to every entry of W_k and b_k: every class's score moves alike, so argmax stays.

    That is a property of the published recipe; it is b_k and W_k's own entries that make clients differ.
    """
    near, far = (open_synthetic(f"synthetic:{alpha},0:sizes=500", 5, 0).share(2) for alpha in (0, 1))
    np.testing.assert_array_equal(near[0], far[0])
    assert (near[1] == far[1]).mean() > 0.99


def test_iid_clients_share_one_task() -> None:
    """v = 0 for all, and a model fitted to some clients fits another; classes are spread alike."""
    data = open_synthetic("synthetic:iid:sizes=2000", 30, 0)
    shares = [np.bincount(data.share(client)[1], minlength=10) / 2000 for client in range(30)]
    assert np.ptp(shares, axis=0).max() < 0.07  # 0.25 in 2,000: a deviation of 0.0097
    assert abs(data.share(3)[0].mean(axis=0)).max() < 5 / np.sqrt(2000)


def test_heterogeneous_clients_have_few_classes_and_iid_ones_many() -> None:
    held = {
        name: classes_held(open_synthetic(f"synthetic:{name}:sizes=200", 50, 0), range(50))
        for name in ("iid", "1,1")
    }
    assert held["1,1"] < 6 < held["iid"]


def test_label_skew_concentrates_classes_and_a_large_number_evens_them() -> None:
    largest = {}
    for skew in ("", ":labels=0.1", ":labels=1", ":labels=100"):
        data = open_synthetic(f"synthetic:iid:sizes=400{skew}", 60, 0)
        assert len(data.share(7)[1]) == 400
        largest[skew] = np.mean([np.bincount(data.share(client)[1]).max() / 400 for client in range(60)])
    assert largest[":labels=0.1"] > largest[":labels=1"] > largest[":labels=100"]
    assert largest[":labels=100"] < largest[""] < largest[":labels=0.1"]


def test_label_skew_follows_the_mix_where_the_task_allows() -> None:
    """Two classes, of which the pool has enough for any mix: shares of one spread as Beta(1, 1), with variance 1/12."""
    data = open_synthetic("synthetic:iid:classes=2:sizes=200:labels=1", 300, 5)
    plain = open_synthetic("synthetic:iid:classes=2:sizes=200", 300, 5)
    skewed_shares, plain_shares = (
        np.array([each.share(client)[1].mean() for client in range(300)]) for each in (data, plain)
    )
    assert skewed_shares.var() == pytest.approx(1 / 12, rel=0.25)
    assert plain_shares.var() < 0.004


def test_rotation_turns_pairs_and_keeps_lengths_and_labels() -> None:
    plain = open_synthetic("synthetic:1,1:sizes=50:features=7", 5, 0)
    turned = open_synthetic("synthetic:1,1:sizes=50:features=7:rotate=40", 5, 0)
    (x, y), (rx, ry) = plain.share(2), turned.share(2)
    np.testing.assert_array_equal(y, ry)
    np.testing.assert_allclose(
        np.hypot(x[:, 0:6:2], x[:, 1:6:2]), np.hypot(rx[:, 0:6:2], rx[:, 1:6:2]), rtol=1e-5
    )
    np.testing.assert_array_equal(x[:, 6], rx[:, 6])
    angles = np.angle((rx[:, 0:6:2] + 1j * rx[:, 1:6:2]) / (x[:, 0:6:2] + 1j * x[:, 1:6:2]))
    assert np.ptp(angles) < 1e-4  # one angle a client
    assert abs(angles[0, 0]) > 0.01


def test_shift_is_one_offset_a_client() -> None:
    plain, moved = (open_synthetic(f"synthetic:1,1:sizes=50{more}", 40, 0) for more in ("", ":shift=3"))
    offsets = [moved.share(client)[0] - plain.share(client)[0] for client in range(40)]
    assert max(np.ptp(offset, axis=0).max() for offset in offsets) < 1e-4
    assert np.std([offset[0] for offset in offsets]) == pytest.approx(3, rel=0.05)
    np.testing.assert_array_equal(plain.share(3)[1], moved.share(3)[1])


def test_test_data_are_new_samples_of_the_clients_tasks() -> None:
    data = open_synthetic("synthetic:1,1:sizes=50", 7, 0)
    test = data.test(100)
    assert (len(test), test.x.shape, test.num_classes) == (100, (100, 60), 10)
    seen = np.concatenate([data.share(client)[0] for client in range(7)])
    assert not (test.x[:, None, 0] == seen[None, :, 0]).any()
    near = np.array([data.share(0)[0].mean(axis=0), data.share(6)[0].mean(axis=0)])
    assert np.abs(test.x[:15].mean(axis=0) - near[0]).max() < np.abs(near[0] - near[1]).max()
    assert len(open_synthetic("synthetic:1,1", 1_000_000, 0).test(1).y) == 1
    np.testing.assert_array_equal(test.x, data.test(100).x)


def test_specs_are_recipes() -> None:
    assert parse("synthetic:0.5,2") == Recipe(0.5, 2.0)
    assert parse("synthetic:iid:features=8:classes=3:sizes=power,1.5:labels=0.1:rotate=5:shift=2") == Recipe(
        iid=True, features=8, classes=3, sizes="power,1.5", label_skew=0.1, rotate=5.0, shift=2.0
    )


@pytest.mark.parametrize(
    "spec",
    [
        "synthetic",
        "synthetic:1",
        "synthetic:1,2,3",
        "synthetic:a,b",
        "synthetic:-1,1",
        "synthetic:nan,1",
        "synthetic:1,inf",
        "synthetic:1,1:colour=3",
        "synthetic:1,1:features",
        "synthetic:1,1:features=0",
        "synthetic:1,1:classes=1",
        "synthetic:1,1:classes=2:classes=3",
        "synthetic:1,1:sizes=0",
        "synthetic:1,1:sizes=power,1",
        "synthetic:1,1:sizes=many",
        "synthetic:1,1:labels=-1",
        "mnist",
    ],
)
def test_what_is_no_recipe_is_refused(spec: str) -> None:
    with pytest.raises(DataError):
        parse(spec)


def test_clients_that_are_not_there_are_refused() -> None:
    data = open_synthetic("synthetic:1,1", 3, 0)
    for client in (-1, 3):
        with pytest.raises(DataError, match=f"no client {client}"):
            data.share(client)
    with pytest.raises(DataError, match="0 clients"):
        open_synthetic("synthetic:1,1", 0, 0)
    with pytest.raises(DataError, match="0 test samples"):
        data.test(0)
