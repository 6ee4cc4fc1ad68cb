"""Quantiles by hand, and how many calls are timed: by a clock of the test's own."""

from collections.abc import Callable

import pytest

from fedlite.profile import latency


class Clock:
    """Stands still but for what a call takes."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, *seconds: float) -> Callable[[], None]:
        """A call that takes these times in turn, after a warm-up of the first."""
        times = [seconds[0]] * latency.WARM_UP + list(seconds) * latency.MOST

        def call() -> None:
            self.now += times.pop(0)

        return call


@pytest.mark.parametrize(
    ("values", "share", "want"),
    [
        ([1], 0.5, 1),
        ([4, 1, 3, 2], 0.5, 2),
        (range(1, 21), 0.95, 19),
        (range(1, 101), 0.95, 95),
        ([7, 9], 1.0, 9),
    ],
)
def test_a_quantile_is_the_nearest_rank(values: list[float], share: float, want: float) -> None:
    assert latency.quantile(values, share) == want


def test_the_warm_up_does_not_count_and_the_slow_ones_show_in_the_95th() -> None:
    clock = Clock()
    got = latency.measure(clock.taking(*[1.0] * 17, *[10.0] * 3), seconds=40, least=20, clock=clock)
    assert (got.p50_seconds, got.p95_seconds, got.repeats) == (1.0, 10.0, 20)


def test_as_long_as_asked_and_never_more_than_most() -> None:
    clock = Clock()
    assert latency.measure(clock.taking(0.125), seconds=10, least=3, clock=clock).repeats == 80
    clock = Clock()
    assert latency.measure(clock.taking(2.0**-20), seconds=10, least=3, clock=clock).repeats == latency.MOST
    clock = Clock()
    assert latency.measure(clock.taking(100.0), seconds=10, least=3, clock=clock).repeats == 3
