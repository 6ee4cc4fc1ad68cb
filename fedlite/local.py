"""One client's local training, as its settings say: in float32 or rounding, in mixed precision, or in int8."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from fedlite.autocast import resolve
from fedlite.errors import SettingsError
from fedlite.int8_training import SparseUpdate, int8_train
from fedlite.train import TrainResult, train_with
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Masks, Params, is_statistic


def train(
    net: nn.Module,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    settings: TrainSettings,
    *,
    seed: int,
    masks: Masks | None = None,
    teacher: Array | None = None,
    device: str = "cpu",
    folder: Path | None = None,
) -> TrainResult:
    """As `fedlite.train.train_with`: `net` computes at settings.bits already and is this call's to use.

    With arithmetic int8 the tensors that settings.learn names learn, in whole numbers. What "auto" mixed precision
    comes to on this device is kept in `folder`, so that it comes to the same ever after. Raises as `local_train`.
    """
    if settings.arithmetic == "int8":
        if device != "cpu":
            raise SettingsError(
                f"int8 arithmetic is the processor's, not {device}'s", remedy="use --device cpu"
            )
        update = learning(params, settings.learn)
        return int8_train(net, params, x, y, settings, seed=seed, masks=masks, teacher=teacher, update=update)
    settings = resolve(net, x, y, settings, device=device, folder=folder)
    return train_with(net, params, x, y, settings, seed=seed, masks=masks, teacher=teacher, device=device)


def learning(params: Params, text: str) -> SparseUpdate | str:
    """What learns: "all", "head", "last:3" blocks, "biases:3" of them, or patterns of tensors, as "output.*,hidden.*".

    SettingsError for a pattern that names none.
    """
    if text in ("all", "head") or ":" in text:
        return text  # int8_train reads these, for it knows the blocks
    wanted = [each.strip() for each in text.split(",")]
    if lost := [each for each in wanted if not any(fnmatchcase(name, each) for name in params)]:
        raise SettingsError(f"no tensor is named {lost[0]!r}; there are {', '.join([*params][:8])} …")
    learned = (name for name in params if any(fnmatchcase(name, each) for each in wanted))
    return SparseUpdate(tuple(name for name in learned if not is_statistic(name)))
