"""The engines that can be asked for."""

from typing import Literal

Name = Literal["auto", "compiled", "torch", "pool", "ray"]
