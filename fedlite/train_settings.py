"""How one client trains, checked; without torch, so that a server can refuse before anyone is asked to train."""

import math
from dataclasses import dataclass
from typing import Literal

from fedlite.errors import SettingsError

BITS = (*range(2, 9), 32)  # of weights: 32 is float32, the others train integer-aware


@dataclass(frozen=True)
class TrainSettings:
    """How one client trains in one round. SettingsError, with the range allowed, for a value outside it."""

    epochs: int = 1  # passes over the data, ≥ 1
    batch_size: int = 32  # examples per step; 0 takes all of them (FedSGD)
    optimizer: Literal["sgd", "adam"] = "sgd"  # its state begins at zero in every round
    learning_rate: float = 0.05
    momentum: float = 0.0  # of sgd, in [0, 1)
    weight_decay: float = 0.0  # added to the gradient as weight_decay · w, after clipping
    proximal_mu: float = 0.0  # FedProx: mu/2 · ‖w − w_t‖² on top of the loss (Li et al. 2020, eq. 2)
    clip_norm: float = 0.0  # longest gradient, L2 over all tensors, the penalty's included; 0 is off
    bits: int = 32  # of weights; 2 to 8 train integer-aware, with inputs rounded to 8 bits
    distill_alpha: float = 1.0  # weight of the labels' loss, in [0, 1]; what is left of 1 is the teacher's
    autocast: Literal["off", "auto", "bf16"] = (
        "off"  # bf16 is mixed precision; fedlite.autocast resolves auto
    )
    arithmetic: Literal["float", "int8"] = "float"  # int8 trains in whole numbers: fedlite.int8_training
    learn: str = "all"  # with int8: head, last:BLOCKS, biases:BLOCKS, or patterns of tensors, as "output.*"
    temperature: float = 1.0  # T > 0 that softens teacher and student (Hinton et al. 2015, §2)

    def __post_init__(self) -> None:
        """Check every field."""
        _require("epochs", self.epochs, type(self.epochs) is int and self.epochs >= 1, "a whole number ≥ 1")
        whole = type(self.batch_size) is int and self.batch_size >= 0
        _require("batch_size", self.batch_size, whole, "a whole number ≥ 0; 0 is the full batch")
        _require("optimizer", self.optimizer, self.optimizer in ("sgd", "adam"), "sgd or adam")
        _require("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "> 0")
        _require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        for name in ("weight_decay", "proximal_mu", "clip_norm"):
            value = getattr(self, name)
            _require(name, value, 0 <= value < math.inf, "≥ 0")
        _require("bits", self.bits, self.bits in BITS, "32 (float32) or 2 to 8 (integer-aware)")
        known = self.autocast in ("off", "auto", "bf16")
        _require("autocast", self.autocast, known, "off, auto or bf16")
        if self.autocast == "bf16" and self.bits < 32:
            raise SettingsError(f"autocast is bf16, but {self.bits} bits round float32 numbers; leave it off")
        share = 0 <= self.distill_alpha <= 1
        _require("distill_alpha", self.distill_alpha, share, "in [0, 1]; 1 is no teacher")
        _require("temperature", self.temperature, 0 < self.temperature < math.inf, "> 0")
        _require("arithmetic", self.arithmetic, self.arithmetic in ("float", "int8"), "float or int8")
        if self.arithmetic == "int8" and self.bits != 8:
            raise SettingsError(f"arithmetic is int8, but bits is {self.bits}; it needs 8")
        known = isinstance(self.learn, str) and self.learn != ""
        _require("learn", self.learn, known, "all, head, last:BLOCKS, biases:BLOCKS or tensors' names")
        if self.learn != "all" and self.arithmetic != "int8":
            raise SettingsError(f"learn is {self.learn!r}, which only int8 arithmetic knows; leave it all")
        if self.optimizer == "adam" and self.momentum:
            raise SettingsError(f"momentum is {self.momentum}, which adam does not use; leave it 0")


def _require(name: str, value: object, fits: bool, wanted: str) -> None:
    if not fits:
        raise SettingsError(f"{name} is {value!r}; it must be {wanted}")
