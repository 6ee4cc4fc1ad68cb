"""One small file per model family; build(name, **options) makes any of them."""

from fedlite.models.bridge import initial_params, load_params, params_of
from fedlite.models.registry import NAMES, ModelSpec, build, default_model, for_shape, spec_of

__all__ = [
    "NAMES",
    "ModelSpec",
    "build",
    "default_model",
    "for_shape",
    "initial_params",
    "load_params",
    "params_of",
    "spec_of",
]
