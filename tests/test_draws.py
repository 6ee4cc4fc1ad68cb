"""Draws are SplitMix64's own, spread as their laws say, and the same wherever they are asked for."""

import numpy as np
import pytest

from fedlite import draws


def test_bits_are_the_outputs_of_splitmix64() -> None:
    """The first five for the seed 1234567, as published with S. Vigna's C code and on Rosetta Code."""
    got = draws.bits(np.asarray(1234567, dtype=np.uint64), np.arange(5))
    assert got.tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_a_draw_does_not_depend_on_its_company() -> None:
    own = draws.stream(7, "here")
    many = draws.uniform(own, np.arange(1000))
    assert many[617] == draws.uniform(own, 617)
    assert draws.uniform(draws.bits(own, np.arange(3)), 5).shape == (3,)
    assert draws.uniform(own, -3) == draws.uniform(own, np.array([-3]))[0]


def test_streams_differ() -> None:
    drawn = {float(draws.uniform(draws.stream(seed, name), 0)) for seed in range(9) for name in "ab"}
    assert len(drawn) == 18


def test_uniform_draws_are_spread_evenly() -> None:
    """In 100 bins of 2,000 expected each a count deviates by 44.5: five deviations."""
    drawn = draws.uniform(draws.stream(0), np.arange(200_000))
    assert np.abs(np.histogram(drawn, bins=100, range=(0, 1))[0] - 2000).max() < 5 * 44.5


@pytest.mark.parametrize(
    ("law", "mean", "variance"), [(draws.exponential, 1.0, 1.0), (draws.normal, 0.0, 1.0)]
)
def test_moments(law: object, mean: float, variance: float) -> None:
    drawn = law(draws.stream(1), np.arange(200_000))  # type: ignore[operator]
    assert drawn.mean() == pytest.approx(mean, abs=5 / np.sqrt(200_000))
    assert drawn.var() == pytest.approx(variance, rel=0.04)
    neighbours = np.corrcoef(drawn[:-1], drawn[1:])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(200_000)
