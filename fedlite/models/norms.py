"""The norm after a convolution, by name; what a federation does with BatchNorm's statistics.

| norm | the layer | a convolution before it |
|---|---|---|
| group | GroupNorm: nothing is shared between examples, so clients cannot disagree (Hsieh et al. 2020) | no bias |
| batch | BatchNorm: folds into the convolution once trained (fedlite.models.fold), free on the device | no bias |
| none | Identity: the layers keep their names | a bias |

BatchNorm normalises a training batch by its own mean and variance, and keeps running ones for evaluation:
`<layer>.running_mean`, `<layer>.running_var`, two statistics among the params. Clients' data differ, and so do
their statistics (Li et al. 2021, "FedBN", §3). `batch_stats` says what becomes of them:

| batch_stats | in an update | who evaluates uses |
|---|---|---|
| averaged | they travel as activation ranges do: the server's are the clients' weighted mean | the server's |
| local | exactly 0: nobody learns them, and the server's stay 0 and 1 | those of the data evaluated, measured first |
| none | there are none | those of each batch: an answer depends on the examples beside it |

`local` is SiloBN's policy (Andreux et al. 2020, §3: weight and bias are shared, statistics are not), and its rule
for data of a new place: measure them there, without labels. A device keeps nothing between rounds. What is folded
or exported needs them measured once: `fedlite.train.with_stats_of`.

A training batch of one value per channel has no variance: it is normalised by the running statistics, or gives the
layer's bias where there are none. `.num_batches_tracked` is left out: models hold float32 alone, momentum is fixed.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedlite.errors import SettingsError

NORMS = ("group", "batch", "none")
BATCH_STATS = ("averaged", "local", "none")
MOMENTUM = 0.1  # running ← 0.9 · running + 0.1 · batch, PyTorch's


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics move by assignment: what the caller gave stays as it was.

    Under functional_call the moved ones are then in the caller's dict, as with activation ranges.
    """

    def __init__(self, channels: int, stats: str = "averaged") -> None:
        super().__init__(channels, momentum=MOMENTUM, track_running_stats=stats != "none")
        self.stats = stats
        self.num_batches_tracked = None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → the same shape."""
        mean, var = self.running_mean, self.running_var
        alone = x.numel() == x.shape[1]
        if mean is None or var is None:
            if alone:
                return x * 0 + self.bias.reshape(1, -1, 1, 1)
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        if not self.training or alone:
            return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        self.running_mean, self.running_var = mean.clone(), var.clone()
        return super().forward(x)


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    *,
    padding: int | None = None,
    norm: str = "group",
    batch_stats: str = "averaged",
) -> list[nn.Module]:
    """A convolution and its norm; unless `padding` says otherwise, stride 1 keeps height and width.

    SettingsError for an unknown word.
    """
    around = kernel // 2 if padding is None else padding
    layer = nn.Conv2d(inputs, outputs, kernel, stride, around, groups=groups, bias=norm == "none")
    return [layer, norm_of(outputs, norm, batch_stats)]


def norm_of(channels: int, norm: str, batch_stats: str = "averaged") -> nn.Module:
    """The norm for so many channels. SettingsError, with the words there are, for another."""
    if norm not in NORMS:
        raise SettingsError(f"norm is {norm!r}; there are {', '.join(NORMS)}")
    if batch_stats not in BATCH_STATS:
        raise SettingsError(f"batch_stats is {batch_stats!r}; there are {', '.join(BATCH_STATS)}")
    if norm == "batch":
        return BatchNorm(channels, batch_stats)
    return nn.GroupNorm(groups_for(channels), channels) if norm == "group" else nn.Identity()


def groups_for(channels: int) -> int:
    """As many groups as divide the channels: 8 at most, of 8 channels or more each where there are as many."""
    return next(each for each in range(max(1, min(8, channels // 8)), 0, -1) if channels % each == 0)


def local_statistics(net: nn.Module) -> set[str]:
    """The statistics, by name, that belong to whoever's data the model sees."""
    return {
        f"{name}.{part}"
        for name, layer in net.named_modules()
        if isinstance(layer, BatchNorm) and layer.stats == "local"
        for part in ("running_mean", "running_var")
    }


def measured(net: nn.Module, weights: dict[str, Tensor], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """`weights` with BatchNorm's statistics measured over batches, each normalised by itself on the way through.

    Means and variances are those of all batches together, weighted by size. `net` is left in evaluation mode. No
    batch that has a variance leaves the statistics as they were.
    """
    net.eval()
    norms = {name: layer for name, layer in net.named_modules() if isinstance(layer, BatchNorm)}
    total: dict[str, Tensor] = {}
    seen = 0
    try:
        for layer in norms.values():
            layer.train().momentum = 1.0
        for x in batches:
            moved = dict(weights)
            with torch.no_grad():
                functional_call(net, moved, (x,))
            seen += len(x)
            for name, value in _moments(norms, moved).items():
                total[name] = total.get(name, torch.zeros_like(value)) + len(x) * value
    finally:
        for layer in norms.values():
            layer.eval().momentum = MOMENTUM
    return weights | _statistics({name: value / seen for name, value in total.items()})


def _moments(norms: dict[str, BatchNorm], moved: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean, and mean of squares under the variance's name: what adds up over batches."""
    found: dict[str, Tensor] = {}
    for name in norms:
        if f"{name}.running_mean" in moved:
            mean, var = (moved[f"{name}.running_{part}"].double() for part in ("mean", "var"))
            found |= {f"{name}.running_mean": mean, f"{name}.running_var": var + mean.square()}
    return found


def _statistics(moments: dict[str, Tensor]) -> dict[str, Tensor]:
    means = {name: value for name, value in moments.items() if name.endswith("_mean")}
    found = {name: value.float() for name, value in means.items()}
    for name, mean in means.items():
        var = name.removesuffix("_mean") + "_var"
        found[var] = (moments[var] - mean.square()).clamp(min=0).float()
    return found
