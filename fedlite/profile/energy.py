"""Energy of a piece of work, where the device has a meter: read from what Linux or the board shows.

| meter | read from | what it measures |
|---|---|---|
| hwmon | /sys/class/hwmon/*/power1_input of an INA219, INA226 or relative, in µW | the wire the sensor is in |
| pmic | `vcgencmd pmic_read_adc` of a Raspberry Pi 5: V and A of each rail | the board behind its power chip |
| rapl | /sys/class/powercap/intel-rapl:*/energy_uj, counters in µJ | the processors and their memory |

Sources: Linux, Documentation/hwmon/ina2xx.rst and sysfs-interface.rst, Documentation/power/powercap/powercap.rst.
They are read here and not through a library since none reads all three on a Pi without estimating what it cannot
read: codecarbon does (RAPL, else a guess), pyRAPL and zeus know no Pi's sensors.
"""

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from fedlite.profile.unknown import Unknown

PERIOD_SECONDS = (
    0.1  # between samples of a power: vcgencmd is a process for each, more often it would be the load
)
_RAIL = re.compile(r"\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*")

Sample = tuple[float, float]  # seconds, watts


@dataclass(frozen=True)
class Energy:
    """Joules that a meter counted in so many seconds. `source` is its name, `scope` what is behind it."""

    joules: float
    seconds: float
    source: str
    scope: str

    @property
    def watts(self) -> float:
        """The mean power."""
        return self.joules / self.seconds


class Meter(Protocol):
    """Counts energy while some work is done."""

    @property
    def name(self) -> str:
        """What reads it."""

    @property
    def scope(self) -> str:
        """What is behind it."""

    def joules(self, work: Callable[[], object]) -> float:
        """Joules from the beginning of `work` to its end. OSError or ValueError if the meter cannot be read."""


@dataclass(frozen=True)
class Rapl:
    """The processor's own energy counters, one for each zone; each begins again at 0 after its range."""

    zones: tuple[Path, ...]
    name: str = "rapl"

    @property
    def scope(self) -> str:
        """The zones' names."""
        return ", ".join(_text(zone / "name") for zone in self.zones)

    def joules(self, work: Callable[[], object]) -> float:
        """As Meter. A counter may pass its end once: in minutes at the earliest."""
        before = [_number(zone / "energy_uj") for zone in self.zones]
        work()
        after = [_number(zone / "energy_uj") for zone in self.zones]
        ranges = [_number(zone / "max_energy_range_uj") for zone in self.zones]
        return sum(map(counted, before, after, ranges)) * 1e-6


def counted(before: int, after: int, span: int) -> int:
    """How far a counter of this range went, having passed its end at most once."""
    return after - before if after >= before else after + span - before


@dataclass(frozen=True)
class Power:
    """A meter that tells watts now: sampled in a thread, and added up."""

    name: str
    scope: str
    watts: Callable[[], float]
    clock: Callable[[], float] = time.monotonic

    def joules(self, work: Callable[[], object]) -> float:
        """As Meter."""
        samples, failed, stop = [self._sample()], [], threading.Event()

        def sample() -> None:
            try:
                while not stop.wait(PERIOD_SECONDS):
                    samples.append(self._sample())
            except (OSError, ValueError) as error:
                failed.append(error)

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            work()
        finally:
            stop.set()
            thread.join()
        if failed:
            raise failed[0]
        return integral([*samples, self._sample()])

    def _sample(self) -> Sample:
        return self.clock(), self.watts()


def integral(samples: Sequence[Sample]) -> float:
    """Joules under samples of (seconds, watts) in rising time: the trapezoidal rule."""
    return sum((end - start) * (low + high) / 2 for (start, low), (end, high) in pairwise(samples))


def measure(meter: Meter, work: Callable[[], object]) -> Energy | Unknown:
    """The energy of `work`, everything else that the device did meanwhile included."""
    start = time.monotonic()
    try:
        joules = meter.joules(work)
        scope = meter.scope
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return Unknown(f"{meter.name} could not be read: {error}")
    seconds = time.monotonic() - start
    if joules <= 0:
        return Unknown(f"{meter.name} counted {joules:g} J in {seconds:.1f} s: it does not move")
    return Energy(joules, seconds, meter.name, scope)


def find_meter(root: Path = Path("/"), vcgencmd: str | None = None) -> Meter | Unknown:
    """The best meter of this device: a sensor on the supply, then the Pi 5's power chip, then the processor's counters.

    Paths are below `root`; `vcgencmd` is a command, by default the one on the path. Unknown with every reason if
    there is none that can be read.
    """
    reasons = []
    for found in (_hwmon(root), _pmic(vcgencmd or shutil.which("vcgencmd")), _rapl(root)):
        if not isinstance(found, Unknown):
            return found
        reasons.append(found.reason)
    return Unknown("; ".join(reasons))


def _hwmon(root: Path) -> Meter | Unknown:
    folder = root / "sys/class/hwmon"
    for place in sorted(folder.glob("hwmon*")):
        try:
            chip, source = _text(place / "name"), place / "power1_input"
            if chip.startswith("ina") and _watts(source) >= 0:
                return Power(f"hwmon {place.name}", f"the wire its {chip} measures", partial(_watts, source))
        except (OSError, ValueError):
            continue
    return Unknown(f"no INA power sensor in {folder}")


def _watts(source: Path) -> float:
    return _number(source) * 1e-6


def _pmic(command: str | None) -> Meter | Unknown:
    if command is None:
        return Unknown("no vcgencmd (Raspberry Pi 5)")
    try:
        rails = read_rails(_vcgencmd(command))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return Unknown(f"{command} pmic_read_adc gives no power: {error}")
    return Power(
        "pmic",
        f"the board's {len(rails)} rails behind the power chip, without its own loss and without 5 V devices",
        lambda: sum(read_rails(_vcgencmd(command)).values()),
    )


def _vcgencmd(command: str) -> str:
    done = subprocess.run([command, "pmic_read_adc"], capture_output=True, text=True, timeout=5, check=True)
    return done.stdout


def read_rails(text: str) -> Mapping[str, float]:
    """Rail → watts, of the rails that show both amperes and volts. ValueError if there is none."""
    found: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for line in text.splitlines():
        if match := _RAIL.fullmatch(line):
            found[match[2]][match[1]] = float(match[3])
    rails = {name: amperes * found["V"][name] for name, amperes in found["A"].items() if name in found["V"]}
    if not rails:
        raise ValueError("no rail shows both amperes and volts")
    return rails


def _rapl(root: Path) -> Meter | Unknown:
    folder = root / "sys/class/powercap"
    packages = [
        zone
        for zone in sorted(folder.glob("intel-rapl:*"))
        if re.fullmatch(r"intel-rapl:\d+", zone.name) and _named(zone, "package")
    ]
    if not packages:
        return Unknown(f"no RAPL counters in {folder}")
    memory = [zone for zone in sorted(folder.glob("intel-rapl:*:*")) if _named(zone, "dram")]
    try:
        for zone in packages + memory:
            _number(zone / "energy_uj")
            _number(zone / "max_energy_range_uj")
    except (OSError, ValueError) as error:
        return Unknown(f"the RAPL counters cannot be read ({error}); on most systems root may")
    return Rapl(tuple(packages + memory))


def _named(zone: Path, word: str) -> bool:
    try:
        return _text(zone / "name").startswith(word)
    except OSError:
        return False


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace").strip()


def _number(path: Path) -> int:
    return int(_text(path))
