"""What a link bears of a report in a round, and what is recorded of it.

A device sends the finest update that fits: `fedlite.compress.rate`. A link carries more than reports, so that a part of
what it carries in `--round-time` is left for the rest.
"""

from collections.abc import Mapping

from fedlite.errors import SettingsError
from fedlite.types import Metrics
from fedlite.units import bits_per_second_of, bytes_of, seconds_of

ROUND_TIME = "30s"
# What goes up beside reports of 1.5, 40 and 221 kB was measured to be 314, 380 and 745 bytes (TLS, HTTP/2, gRPC, and
# acknowledgements of what comes down; docs/budget.md): 0.2 % and some 310. TCP and IP headers, which that count leaves
# out, are 52 of each full packet's 1500 bytes: 3.6 %.
SHARE = 0.95
EACH_ROUND = 400  # bytes
_MOST = 2**53


def budget_bytes(uplink_budget: str, link: str, round_time: str) -> int:
    """Most bytes of a report, as sealed; 0 where there is no limit. Of a budget and a link, the smaller.

    SettingsError for what is no size, rate or time, and for a link that carries no report at all.
    """
    found = []
    if uplink_budget:
        found.append(bytes_of(uplink_budget))
        if found[0] < 1:
            raise SettingsError(f"--uplink-budget {uplink_budget} is less than a byte")
    if link:
        found.append(carried(bits_per_second_of(link), seconds_of(round_time or ROUND_TIME)))
        if found[-1] < 1:
            raise SettingsError(
                f"--link {link} carries no report in --round-time {round_time or ROUND_TIME}",
                remedy="allow more time",
            )
    return min(found, default=0)


def carried(bits_per_second: float, seconds: float) -> int:
    """Most bytes of a report that such a link carries in that time; below 1 where there is no room for any."""
    return min(int(bits_per_second * seconds / 8 * SHARE) - EACH_ROUND, _MOST)


def told(deviations: float, own_budget: int) -> dict[str, float]:
    """What a report's metrics say of a choice; a budget only if it is the device's own."""
    own = {"uplink_budget": float(own_budget)} if own_budget else {}
    return {"deviations": deviations, **own}


def recorded(metrics: Metrics, budget: int) -> dict[str, float]:
    """What a client's row says of its report: the choice, and what the budget was; `budget` is everybody's."""
    if "deviations" not in metrics:
        return {}
    bytes_up = metrics.get("uplink_budget", budget)
    known = {"uplink_budget": int(bytes_up)} if 0 < bytes_up <= _MOST else {}
    return {"deviations": metrics["deviations"], **known}


def longest(own_budget: int) -> Mapping[str, float]:
    """`told` of the choice that takes the most characters."""
    return told(0.1234, own_budget)
