"""Devices as numbers: how long a round's work takes on one, what it sends and burns, and whether it fits.

Rates are published measurements where there are any; `Profile.source` says of every number whether it was
measured, is a data sheet's, or is estimated, but for `operation_seconds`, which are all estimated. A measurement
of your own goes in by `dataclasses.replace`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlite import draws
from fedlite.errors import SettingsError

MIB = 2**20


@dataclass(frozen=True)
class Profile:
    """A kind of device and the network it is on.

    `flops_per_second` is what it sustains in training; `memory_bytes` what a training process may use of its
    memory; `latency_seconds` one way. `idle_watts` and `busy_watts` are totals at the supply, `radio_watts`
    comes on top of idle while it sends or receives. `battery_joules` is None on mains. `operation_seconds` is what
    each tensor operation of a training step takes beside its arithmetic.
    """

    name: str
    flops_per_second: float
    memory_bytes: int
    uplink_bits_per_second: float
    downlink_bits_per_second: float
    latency_seconds: float
    idle_watts: float
    busy_watts: float
    radio_watts: float
    battery_joules: float | None
    source: str
    operation_seconds: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What one client's part of a round costs: fetch the model, train, send the update.

    `fits` is False where training needs more memory than the device has; it then cannot be done at all.
    Joules are the device's whole draw in that time, not only what training adds.
    """

    seconds_down: float
    seconds_compute: float
    seconds_up: float
    joules_down: float
    joules_compute: float
    joules_up: float
    bytes_down: int
    bytes_up: int
    fits: bool

    @property
    def seconds(self) -> float:
        """From the request to the update's last byte."""
        return self.seconds_down + self.seconds_compute + self.seconds_up

    @property
    def energy_joules(self) -> float:
        """In all three phases."""
        return self.joules_down + self.joules_compute + self.joules_up


# Where the numbers of all profiles come from:
#
# FLOP rate: High Performance Linpack on all cores, github.com/geerlingguy/top500-benchmark (README): Pi 4 11.889
# GFLOPS at 7.2 W, Pi 5 30.249 GFLOPS at 11 W. HPL counts float64, so float32 products of large matrices run up to
# twice as fast, and a small network's layers slower: neither is corrected for. There the Zero 2 W made 0.370
# GFLOPS at 2.1 W on a matrix as large as its memory (issue 26): a rate of its SD card, not of its processor. It and
# the Pi 3B+, both Cortex-A53, are therefore estimated at half the Pi 4's 1.65 GFLOPS per GHz and core: in R.
# Longbottom's MP-Whetstone (raspberrypi.org forum 44080) a Pi 4 does 9476 MWIPS, a Pi 3B+ 4580.
# Operations: PyTorch takes some 10 µs on an x86-64 core to start one of a training step (measured: 8 to 20, on the
# models of fedlite.models). There Python's n-body benchmark of 5 million steps takes 20.6 s, on a Pi 4 158 s
# (chaitanyamehta.github.io, "Performance Analysis of Languages on Raspberry Pi"): 80 µs. The other boards by the
# ratios of their cores above, the Jetson's Cortex-A57 estimated at 0.8 of the Pi 4's.
# Power: idle and four busy cores of the Pi 3B+ (1.9 W, 5.1 W) and Pi 4 (2.7 W) from pidramble.com, "Power
# consumption benchmarks"; Zero 2 W idle 0.6 W from cnx-software.com, 9 December 2021; busy is HPL's wherever above.
# Network: the slower of the board's own interface and the mean fixed broadband connection of Ookla's Speedtest
# Global Index, September 2020: 85.73 Mbit/s down, 45.74 up, 21 ms there and back. The Zero 2 W has 802.11n at
# 2.4 GHz with one antenna, 72.2 Mbit/s on the air, of which 40 are estimated to arrive. A phone: the same index's
# mean mobile connection, 35.96 Mbit/s down, 11.22 up, 40 ms.
# Radio: 0.7 W for Wi-Fi on a board, 0.3 W for Ethernet, 2 W for a phone's LTE modem are estimated.
# Memory: what the board is sold with (data sheets), less an estimated 128 MiB for a system without a desktop; on
# the Jetson, whose system has one, 1 GiB; of a phone's 6 GiB one app is estimated to get 1 GiB.
_BROADBAND = {
    "uplink_bits_per_second": 45.74e6,
    "downlink_bits_per_second": 85.73e6,
    "latency_seconds": 0.0105,
}

_ALL = (
    Profile(
        name="pi_zero_2w",
        flops_per_second=3.3e9,  # 4 cores · 1.0 GHz · 0.825
        memory_bytes=(512 - 128) * MIB,
        uplink_bits_per_second=40e6,
        downlink_bits_per_second=40e6,
        latency_seconds=0.0105,
        idle_watts=0.6,
        busy_watts=2.1,
        radio_watts=0.7,
        battery_joules=None,
        source="power measured (cnx-software 2021; HPL, geerlingguy); memory data sheet; FLOP rate, network estimated",
        operation_seconds=230e-6,
    ),
    Profile(
        name="pi3",
        flops_per_second=4.6e9,  # 4 cores · 1.4 GHz · 0.825
        memory_bytes=(1024 - 128) * MIB,
        **_BROADBAND,
        idle_watts=1.9,
        busy_watts=5.1,
        radio_watts=0.7,
        battery_joules=None,
        source="power measured (pidramble.com); memory data sheet; FLOP rate and radio estimated",
        operation_seconds=165e-6,
    ),
    Profile(
        name="pi4",
        flops_per_second=11.889e9,
        memory_bytes=(4096 - 128) * MIB,
        **_BROADBAND,
        idle_watts=2.7,
        busy_watts=7.2,
        radio_watts=0.7,
        battery_joules=None,
        source="FLOP rate and power measured (HPL, geerlingguy; pidramble.com); memory data sheet; radio estimated",
        operation_seconds=80e-6,
    ),
    Profile(
        name="pi5",
        flops_per_second=30.249e9,
        memory_bytes=(8192 - 128) * MIB,
        **_BROADBAND,
        idle_watts=2.7,  # estimated: as the Pi 4
        busy_watts=11.0,
        radio_watts=0.7,
        battery_joules=None,
        source="FLOP rate and busy power measured (HPL, geerlingguy); memory data sheet; idle and radio estimated",
        operation_seconds=31e-6,
    ),
    Profile(
        name="jetson_nano",
        # Data sheet: 128 Maxwell cores · 921.6 MHz · 2 = 236 GFLOPS of float32; a third of it is estimated to be
        # reached in training. 10 W is the power budget of its default mode; idle 2 W is estimated.
        flops_per_second=79e9,
        memory_bytes=3072 * MIB,
        **_BROADBAND,
        idle_watts=2.0,
        busy_watts=10.0,
        radio_watts=0.3,
        battery_joules=None,
        source="peak FLOP rate, busy power, memory data sheet (NVIDIA); a third of the peak, idle, radio estimated",
        operation_seconds=100e-6,
    ),
    Profile(
        name="phone",
        # Two Cortex-A76 at 2.2 GHz at the Pi 5's measured rate per GHz and core (3.15), six A55 at 1.8 GHz at half
        # the Pi 4's (0.825). Battery: 4500 mAh at 3.85 V, the usual size.
        flops_per_second=23e9,
        memory_bytes=1024 * MIB,
        uplink_bits_per_second=11.22e6,
        downlink_bits_per_second=35.96e6,
        latency_seconds=0.020,
        idle_watts=0.3,
        busy_watts=4.0,
        radio_watts=2.0,
        battery_joules=62_400.0,
        source="network measured (Ookla 2020); everything else estimated for a mid-range phone of 2021",
        operation_seconds=34e-6,
    ),
)

PROFILES: Mapping[str, Profile] = {each.name: each for each in _ALL}


def profile(name: str) -> Profile:
    """A device by name. SettingsError, with the names there are, for another."""
    if name not in PROFILES:
        raise SettingsError(f"there is no device profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def cost(
    device: Profile,
    *,
    flops: float,
    payload_up_bytes: int,
    payload_down_bytes: int,
    memory_bytes: int,
    operations: int = 0,
) -> Cost:
    """A client's part of a round on this device.

    A transfer takes latency + bits / rate; training takes its arithmetic, flops / rate, and its operations' time.
    """
    down = device.latency_seconds + 8 * payload_down_bytes / device.downlink_bits_per_second
    up = device.latency_seconds + 8 * payload_up_bytes / device.uplink_bits_per_second
    compute = flops / device.flops_per_second + operations * device.operation_seconds
    online = device.idle_watts + device.radio_watts
    return Cost(
        seconds_down=down,
        seconds_compute=compute,
        seconds_up=up,
        joules_down=down * online,
        joules_compute=compute * device.busy_watts,
        joules_up=up * online,
        bytes_down=payload_down_bytes,
        bytes_up=payload_up_bytes,
        fits=memory_bytes <= device.memory_bytes,
    )


@dataclass(frozen=True)
class Fleet:
    """Which device each client is; drawn when asked, so a fleet of any size takes no memory."""

    profiles: tuple[Profile, ...]
    shares: tuple[float, ...]  # of all clients, > 0, adding up to 1
    seed: int

    def of(self, client: int) -> Profile:
        """The device of a client."""
        return self.profiles[int(self.kinds(client))]

    def kinds(self, clients: ArrayLike) -> NDArray[np.int64]:
        """The place of each client's device in `profiles`; the shape of `clients`."""
        drawn = draws.uniform(self._stream, clients)
        return np.asarray(np.searchsorted(np.cumsum(self.shares)[:-1], drawn, side="right"), dtype=np.int64)

    @cached_property
    def _stream(self) -> draws.Bits:
        return draws.stream(self.seed, "fleet")


def fleet(spec: str, seed: int) -> Fleet:
    """The fleet that `pi4:0.5,pi3:0.3,phone:0.2` names: devices and their shares; `pi4` alone is all of it.

    A client's device is drawn by its share and depends on the seed and the client alone. SettingsError for an
    unknown device, one named twice, or shares that are not positive or do not add up to 1.
    """
    names, shares = [], []
    for part in spec.split(","):
        name, colon, text = part.strip().partition(":")
        names.append(name)
        shares.append(_share(spec, text) if colon else 1.0)
    profiles = tuple(profile(name) for name in names)
    if len(set(names)) < len(names):
        raise SettingsError(f"{spec!r} names a device twice")
    if abs(sum(shares) - 1) > 1e-6:
        raise SettingsError(
            f"the shares of {spec!r} add up to {sum(shares):g}; 1 wanted, as in pi4:0.7,phone:0.3"
        )
    return Fleet(profiles, tuple(shares), seed)


def _share(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise SettingsError(f"{text!r} in {spec!r} is not a share; above 0 and at most 1 wanted")
    return value
