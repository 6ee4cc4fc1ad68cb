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
or exported needs them measured once: `fedlite.train.with_local_stats`.

A training batch of one value per channel has no variance: it is normalised by the running statistics, or gives the
layer's bias where there are none. `.num_batches_tracked` is left out: models hold float32 alone, momentum is fixed.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.errors import SettingsError

NORMS = ("group", "batch", "none")
BATCH_STATS = ("averaged", "local", "none")


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics move by assignment: what the caller gave stays as it was.

    Under functional_call the moved ones are then in the caller's dict, as with activation ranges.
    """

    def __init__(self, channels: int, stats: str = "averaged") -> None:
        super().__init__(channels, track_running_stats=stats != "none")
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
    norm: str = "group",
    batch_stats: str = "averaged",
) -> list[nn.Module]:
    """A convolution that keeps height and width at stride 1, and its norm. SettingsError for an unknown word."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=norm == "none")
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


def is_local(net: nn.Module) -> bool:
    """Whether the model's BatchNorm statistics belong to whoever's data it sees."""
    return any(isinstance(each, BatchNorm) and each.stats == "local" for each in net.modules())
