"""The settings of a student: how a model is made small, and kept small while it is trained. Without torch.

A recipe is a TOML file of these fields, shared by the server, the devices and the simulator: `--student recipe.toml`.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedlite.compress.prunefl import PruneFl
from fedlite.compress.rigl import RigL
from fedlite.compress.schedule import Cubic, Gradual, Late, OneShot, Pruner
from fedlite.config import option
from fedlite.errors import SettingsError

FIXED_COST = 0.1  # of a round with all weights live: what prunefl takes to be there whatever is pruned


@dataclass(frozen=True)
class StudentSettings:
    """Smaller before the first round, pruned on the way, rounded, taught."""

    start: Path | None = option(None, "begin with this model.safetensors, not a new one", metavar="FILE")
    channels: float = option(0.0, "share of every layer's channels to remove before the first round")
    energy: float = option(
        1.0, "factorize layers to this share of their energy, by SVD, before the first round"
    )
    fedpara: float = option(
        0.0, "train layers as FedPara's products of factors, with this share of the parameters"
    )
    sparsity: float = option(0.5, "share of the weights to prune, 0 to below 1")
    prune: Literal["once", "gradual", "prunefl", "rigl"] = option(
        "once", "once; gradual, by a cubic schedule; prunefl and rigl: pruned weights may come back"
    )
    prune_round: int = option(3, "prune after this round, or begin to")
    prune_end: int = option(0, "round of the last change of what is pruned; 0: ten changes after the first")
    prune_every: int = option(
        0, "rounds between two changes of what is pruned; 0: 1 with gradual, 10 with prunefl and rigl"
    )
    bits: Literal[2, 3, 4, 5, 6, 7, 8, 32] = option(
        8, "8 trains for the int8 model that is deployed, less for weights of fewer bits; 32 is plain float"
    )
    arithmetic: Literal["float", "int8"] = option(
        "float", "int8 trains in whole numbers, in less than a third of the memory"
    )
    learn: str = option(
        "all",
        "with int8 arithmetic: what learns: head, last:BLOCKS, biases:BLOCKS or tensors, as output.*,hidden.*",
    )
    autocast: Literal["off", "auto", "bf16"] = option(
        "off", "bf16 trains in mixed precision where bits is 32; auto does where a device gains by it"
    )
    teacher: Path | None = option(
        None, "model.safetensors whose soft labels the student learns from, on every device", metavar="FILE"
    )
    distill_alpha: float = option(0.5, "with a teacher: weight of the labels; the rest is the teacher's")
    temperature: float = option(4.0, "with a teacher: softens what it says")

    def __post_init__(self) -> None:
        for name, least, below in (("channels", 0, 1), ("fedpara", 0, 1), ("sparsity", 0, 1)):
            value = getattr(self, name)
            if not least <= value < below:
                raise SettingsError(f"--{name} is {value}, {least} to below {below} wanted")
        if not 0 < self.energy <= 1:
            raise SettingsError(f"--energy is {self.energy}, above 0 to 1 wanted")
        if self.energy < 1 and self.fedpara:
            raise SettingsError("--energy and --fedpara at once", remedy="give one of them")
        if self.fedpara and self.start is not None:
            raise SettingsError(
                "--fedpara begins its factors anew, so --start would be lost",
                remedy="use --energy with --start",
            )
        if not 0 <= self.distill_alpha <= 1:
            raise SettingsError(f"--distill-alpha is {self.distill_alpha}, 0 to 1 wanted")
        if not 0 < self.temperature < math.inf:
            raise SettingsError(f"--temperature is {self.temperature}, above 0 wanted")
        for name, least in (("prune_round", 0), ("prune_end", 0), ("prune_every", 0)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise SettingsError(f"--{flag} is {getattr(self, name)}, at least {least} wanted")
        _ = self.pruner(0)

    def pruner(self, seed: int, weights: int = 1) -> Pruner:
        """Who decides on the masks of a model of that many weights. SettingsError for rounds that make no schedule."""
        moves = self.prune in ("prunefl", "rigl")
        begin, every = self.prune_round, self.prune_every or (10 if moves else 1)
        end = self.prune_end or begin + 10 * every
        if self.prune == "once" or not self.sparsity:
            return Gradual(OneShot(self.sparsity, begin))
        if self.prune == "gradual":
            return Gradual(Cubic(self.sparsity, begin, end, every))
        if every == 1 or end <= begin:
            raise SettingsError(
                f"masks would move from round {begin} to {end} every {every} rounds; 2 or more, and an end, are wanted",
                remedy="the rounds that look where weights would go train them all: leave some between them",
            )
        if self.prune == "rigl":
            return Late(RigL(self.sparsity, end - begin, seed, every), begin)
        share = (("*", (1 - FIXED_COST) / weights),)
        kept = 1 - self.sparsity
        fl = PruneFl(
            FIXED_COST, share, self.sparsity, every, end - begin, halving=end - begin, most_live=kept
        )
        return Late(fl, begin)
