"""Meters on trees of files laid out as Linux lays them out, with energies known beforehand."""

import stat
from pathlib import Path

import pytest

from fedlite.profile import energy
from fedlite.profile.unknown import Unknown

# What a Raspberry Pi 5 prints: 12 rails with amperes and volts, two with volts only; shortened to three and two.
PMIC = """\
   3V7_WL_SW_A current(0)=0.10000000A
    DDR_VDD2_A current(5)=0.02000000A
    VDD_CORE_A current(7)=2.00000000A
   3V7_WL_SW_V volt(8)=3.70000000V
    DDR_VDD2_V volt(13)=1.10000000V
    VDD_CORE_V volt(15)=0.90000000V
      EXT5V_V volt(24)=5.15000000V
       BATT_V volt(25)=0.00500000V
"""


def write(path: Path, text: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


def rapl(root: Path, zone: str, name: str, counter: int, span: int = 262_143_328_850) -> Path:
    folder = root / "sys/class/powercap" / zone
    write(folder / "name", name)
    write(folder / "max_energy_range_uj", span)
    return write(folder / "energy_uj", counter)


def test_rapl_adds_packages_and_memory_and_passes_its_end(tmp_path: Path) -> None:
    package = rapl(tmp_path, "intel-rapl:0", "package-0", 9_000_000, span=10_000_000)
    memory = rapl(tmp_path, "intel-rapl:0:1", "dram", 500_000)
    core = rapl(tmp_path, "intel-rapl:0:0", "core", 0)  # inside the package: not added again
    platform = rapl(tmp_path, "intel-rapl:1", "psys", 0)  # around the packages: likewise
    copy = rapl(tmp_path, "intel-rapl-mmio:0", "package-0", 0)  # the same counter by another way

    def work() -> None:
        write(package, 1_500_000)  # 1.0 J to the end, 1.5 J after it
        write(memory, 750_000)
        for each in (core, platform, copy):
            write(each, 7_000_000)

    meter = energy.find_meter(tmp_path, "/nowhere/vcgencmd")
    got = energy.measure(meter, work) if not isinstance(meter, Unknown) else meter
    assert isinstance(got, energy.Energy)
    assert got.joules == pytest.approx(1.0 + 1.5 + 0.25)
    assert (got.source, got.scope) == ("rapl", "package-0, dram")


@pytest.mark.parametrize(
    ("before", "after", "span", "went"), [(5, 9, 100, 4), (9, 9, 100, 0), (90, 5, 100, 15), (0, 99, 100, 99)]
)
def test_a_counter_passes_its_end_at_most_once(before: int, after: int, span: int, went: int) -> None:
    assert energy.counted(before, after, span) == went


def test_a_sensor_on_the_supply_comes_first(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    write(tmp_path / "sys/class/hwmon/hwmon0/name", "cpu_thermal")
    write(tmp_path / "sys/class/hwmon/hwmon2/name", "ina219")
    write(tmp_path / "sys/class/hwmon/hwmon2/power1_input", 2_400_000)  # µW
    meter = energy.find_meter(tmp_path, "/nowhere/vcgencmd")
    assert isinstance(meter, energy.Power)
    assert meter.name == "hwmon hwmon2"
    assert meter.watts() == pytest.approx(2.4)
    assert "ina219" in meter.scope


def test_power_is_added_up_by_the_trapezoidal_rule() -> None:
    assert energy.integral([(0, 2), (1, 4), (3, 4)]) == pytest.approx(3 + 8)
    assert energy.integral([(5, 1)]) == 0
    ticks = iter([10.0, 12.0])
    meter = energy.Power("m", "s", watts=lambda: 3.0, clock=lambda: next(ticks))
    assert meter.joules(lambda: None) == pytest.approx(6.0)  # read at the beginning and at the end, 2 s apart


def test_the_rails_of_a_pi_5() -> None:
    got = energy.read_rails(PMIC)
    assert got == pytest.approx({"3V7_WL_SW": 0.37, "DDR_VDD2": 0.022, "VDD_CORE": 1.8})
    with pytest.raises(ValueError, match="no rail"):
        energy.read_rails("EXT5V_V volt(24)=5.15000000V\n")


def test_the_pmic_is_read_through_its_command(tmp_path: Path) -> None:
    command = tmp_path / "vcgencmd"
    command.write_text(f"#!/bin/sh\n[ \"$1\" = pmic_read_adc ] && cat <<'END'\n{PMIC}END\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    meter = energy.find_meter(tmp_path, str(command))
    assert isinstance(meter, energy.Power)
    assert meter.name == "pmic"
    assert meter.watts() == pytest.approx(0.37 + 0.022 + 1.8)


def test_without_a_meter_every_reason_is_told(tmp_path: Path) -> None:
    got = energy.find_meter(tmp_path, "/nowhere/vcgencmd")
    assert isinstance(got, Unknown)
    for word in ("INA", "vcgencmd", "RAPL"):
        assert word in got.reason


def test_counters_that_cannot_be_read_are_no_meter(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 0).unlink()
    got = energy.find_meter(tmp_path, "/nowhere/vcgencmd")
    assert isinstance(got, Unknown)
    assert "energy_uj" in got.reason


def test_a_meter_that_fails_or_stands_still_gives_no_number(tmp_path: Path) -> None:
    counter = rapl(tmp_path, "intel-rapl:0", "package-0", 5)
    meter = energy.find_meter(tmp_path, "/nowhere/vcgencmd")
    assert isinstance(meter, energy.Rapl)
    still = energy.measure(meter, lambda: None)
    assert isinstance(still, Unknown)
    assert "does not move" in still.reason
    gone = energy.measure(meter, counter.unlink)
    assert isinstance(gone, Unknown)
    assert "could not be read" in gone.reason
