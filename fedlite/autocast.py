"""Whether training in mixed precision pays on this device: measured once, then remembered.

Matrix products in bfloat16 are several times as fast where the hardware has them and several times slower where it
has not; nothing but a clock can tell. `local_train` is pure and does not look at clocks, so whoever calls it says
"off" or "bf16"; this module turns "auto" into one of these, and writes down what it measured.
"""

import logging
import math
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from fedlite import remembered
from fedlite.models.bridge import params_of
from fedlite.models.registry import spec_of
from fedlite.train import check_device, local_train
from fedlite.train_settings import TrainSettings

GAIN = 1.1  # bfloat16 has 8 bits of precision; for less than a tenth of the time it is not worth that
TURNS, STEPS = 3, 3  # of each kind, after one step that warms up
SECONDS = 8.0  # after which there is no other turn: a slow device takes one step of each kind

_log = logging.getLogger("fedlite.autocast")


@dataclass(frozen=True)
class Rates:
    """Seconds of one training step."""

    off: float
    bf16: float

    @property
    def choice(self) -> str:
        """ "bf16" where that is faster by GAIN, else "off"."""
        return "bf16" if self.bf16 * GAIN < self.off else "off"


def resolve(
    model: nn.Module,
    x: NDArray[Any],
    y: NDArray[Any],
    settings: TrainSettings,
    *,
    device: str = "cpu",
    folder: Path | None = None,
) -> TrainSettings:
    """`settings` with autocast "off" or "bf16": as it says, or for "auto" as is faster for `model` on `device`.

    A batch of (x, y) is trained on both ways, for a few seconds at most; its values do not matter. With `folder`
    (which exists) the figures are kept there, so that a device decides once for a model, batch, torch and processor,
    and trains the same bytes ever after. Integer-aware training is never in mixed precision. Raises as `local_train`.
    """
    check_device(device)
    if settings.autocast != "auto":
        return settings
    if settings.bits < 32:
        return replace(settings, autocast="off")
    count = settings.batch_size or len(x)
    place = _place(folder, model, (min(count, len(x)), *x.shape[1:]), device)
    rates = recorded(place)
    if rates is None:
        rates = measured(model, x[:count], y[:count], replace(settings, autocast="off"), device)
        remembered.write(place, asdict(rates))
    _log.info("a step takes %.3g s in float32, %.3g s with bfloat16: %s", rates.off, rates.bf16, rates.choice)
    return replace(settings, autocast="bf16" if rates.choice == "bf16" else "off")


def measured(
    model: nn.Module, x: NDArray[Any], y: NDArray[Any], settings: TrainSettings, device: str
) -> Rates:
    """The least of a few in turn, since other work on the device only adds; infinite for bf16 where torch fails."""
    taught = replace(settings, batch_size=0, distill_alpha=1.0)
    both = {"off": taught, "bf16": replace(taught, autocast="bf16")}
    seconds: dict[str, list[float]] = {name: [] for name in both}
    params, began = params_of(model), time.perf_counter()
    for turn in range(TURNS + 1):
        steps = STEPS if turn else 1
        for name, how in both.items():
            start = time.perf_counter()
            try:
                local_train(model, params, x, y, replace(how, epochs=steps), seed=0, device=device)
                seconds[name].append((time.perf_counter() - start) / steps)
            except RuntimeError:  # an operator that this device does not have in bfloat16
                if name == "off":
                    raise
                seconds[name].append(math.inf)
        if time.perf_counter() - began > SECONDS:
            break
    return Rates(*(min(seconds[name][1:] or seconds[name]) for name in ("off", "bf16")))


def recorded(place: Path | None) -> Rates | None:
    """What was measured before; None when nothing was, or what is there is damaged."""
    found = remembered.read(place, ("off", "bf16"))
    return Rates(**found) if found else None


def _place(folder: Path | None, model: nn.Module, shape: tuple[int, ...], device: str) -> Path | None:
    """Where the rates for this model, batch, torch, device and number of threads are recorded."""
    if folder is None:
        return None
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else remembered.processor()
    machine = [platform.machine(), device, name, torch.get_num_threads(), torch.__version__]
    return remembered.place(folder, "autocast", [spec_of(model).to_json(), list(shape), machine])
