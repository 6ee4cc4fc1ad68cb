"""The device profiles and the availability traces there are, as text."""

from fedlite.virtual.devices import MIB, PROFILES, Profile
from fedlite.virtual.traces import FORMS

HEADS = (
    "name",
    "training",
    "a step's operation",
    "memory",
    "down / up",
    "latency",
    "idle / busy",
    "on air",
    "battery",
)


def table() -> str:
    """Every profile on a line, where its numbers come from, and what --devices and --availability take."""
    lines = [HEADS, *(_cells(each) for each in PROFILES.values())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    rows = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    sources = [f"{each.name:<{widths[0]}}  {each.source}" for each in PROFILES.values()]
    forms = [
        "--devices pi4 is a fleet of one kind, pi4:0.5,phone:0.3,pi_zero_2w:0.2 one by shares",
        f"--availability takes {FORMS}; join them by +",
    ]
    note = (
        "the time of a step's operation is estimated for all: Python's n-body benchmark, and ratios of cores"
    )
    return "\n".join([*rows, "", *sources, note, "", *forms])


def _cells(device: Profile) -> tuple[str, ...]:
    down, up = device.downlink_bits_per_second / 1e6, device.uplink_bits_per_second / 1e6
    battery = device.battery_joules
    return (
        device.name,
        f"{device.flops_per_second / 1e9:.3g} GFLOP/s",
        f"{1e6 * device.operation_seconds:.0f} µs",
        f"{device.memory_bytes / MIB:.0f} MiB",
        f"{down:.3g} / {up:.3g} Mbit/s",
        f"{1000 * device.latency_seconds:.3g} ms",
        f"{device.idle_watts:g} / {device.busy_watts:g} W",
        f"+{device.radio_watts:g} W",
        f"{battery / 3600:.3g} Wh" if battery else "mains",
    )
