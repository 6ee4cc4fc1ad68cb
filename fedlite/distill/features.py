"""What a teacher's inner layers tell a student's: FitNets' hints, and attention transfer.

Features are dense, (batch, features), or maps, (batch, channels, height, width).
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.errors import SettingsError
from fedlite.models.changes import layer_of

Pairs = Sequence[tuple[str, str]]  # (teacher's layer, student's layer)


class Watched(nn.Module):
    """A network that keeps what the named layers gave in its last pass, each through a regressor if there are any."""

    def __init__(self, net: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names = net, tuple(names)
        self.regressors = nn.ModuleList()
        self.seen: list[Tensor] = []
        self._now: dict[str, Tensor] = {}
        for name in names:
            net.get_submodule(name).register_forward_hook(partial(self._keep, name))

    def _keep(self, name: str, _: nn.Module, __: object, output: Tensor) -> None:
        self._now[name] = output

    def forward(self, x: Tensor) -> Tensor:
        """The network's own logits."""
        told = cast(Tensor, self.net(x))
        found = [self._now[name] for name in self.names]
        if len(self.regressors):
            found = [regress(each) for regress, each in zip(self.regressors, found, strict=True)]
        self.seen, self._now = found, {}
        return told


def check_pairs(teacher: nn.Module, student: nn.Module, pairs: Pairs) -> None:
    """SettingsError, with the layers there are, for a name that is none; and for no pairs at all."""
    if not pairs:
        raise SettingsError("which layers teach which is not said: give (teacher's layer, student's layer)")
    for who, net, names in (
        ("teacher", teacher, [each for each, _ in pairs]),
        ("student", student, [each for _, each in pairs]),
    ):
        for name in names:
            try:
                layer_of(net, name)
            except SettingsError as error:
                raise SettingsError(f"{who}: {error.args[0]}") from error


def shapes_seen(watched: Watched, x: Tensor) -> list[Tensor]:
    """What the layers give for x, without gradients. SettingsError for one that gives no features."""
    with torch.no_grad():
        watched.eval()(x)
    for name, each in zip(watched.names, watched.seen, strict=True):
        if not isinstance(each, Tensor) or each.ndim not in (2, 4):
            shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise SettingsError(f"layer {name!r} gives {shape}; dense features or maps teach")
    return watched.seen


def regressor(guided: Tensor, hint: Tensor) -> nn.Module:
    """From the student's features to the teacher's shape, on the meta device. (Romero et al. 2015, §2.2)

    Dense to dense a Linear; maps to maps a convolution whose kernel makes the sizes agree. SettingsError otherwise.
    """
    if guided.ndim == hint.ndim == 2:
        return nn.Linear(guided.shape[1], hint.shape[1], device="meta")
    kernel = [ours - theirs + 1 for ours, theirs in zip(guided.shape[2:], hint.shape[2:], strict=False)]
    if guided.ndim != hint.ndim or min(kernel) < 1:
        raise SettingsError(
            f"the teacher's features are {tuple(hint.shape[1:])}, the student's {tuple(guided.shape[1:])}; "
            "a hint is of the same kind, and no larger in height and width",
            remedy="name another pair of layers",
        )
    return nn.Conv2d(guided.shape[1], hint.shape[1], cast("tuple[int, int]", tuple(kernel)), device="meta")


def hint_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """½ ‖hint − guided‖², mean over examples and features. (Romero et al. 2015, eq. 3)

    The paper sums over features; the mean lets one learning rate do for layers of any size.
    """
    return 0.5 * (hint - guided).square().mean()


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """½ ‖Q_S/‖Q_S‖ − Q_T/‖Q_T‖‖², mean over examples and places; Q = Σ_c A_c² of maps A.

    (Zagoruyko & Komodakis 2017, eq. 2, with the square of the distance, which has a gradient where maps agree.)
    The larger map is averaged down to the smaller one's size. SettingsError for features that are no maps.
    """
    if student.ndim != 4 or teacher.ndim != 4:
        raise SettingsError(
            f"attention is of maps, (channels, height, width); the student's layer gives {tuple(student.shape[1:])}, "
            f"the teacher's {tuple(teacher.shape[1:])}"
        )
    ours, theirs = (each.square().mean(1, keepdim=True) for each in (student, teacher))
    size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
    ours, theirs = (F.normalize(F.adaptive_avg_pool2d(each, size).flatten(1)) for each in (ours, theirs))
    return 0.5 * (ours - theirs).square().mean()
