"""Between a torch module and name → float32 array: read, write, and begin from a seed.

Initial values come from NumPy streams named by seed and tensor, so they touch no global generator, do not
depend on the torch version, and adding a layer does not change the others.
"""

import numpy as np
import torch
from torch import nn

from fedlite.errors import SettingsError
from fedlite.models.factors import HadamardConv2d, HadamardLinear
from fedlite.seeds import generator
from fedlite.tensors import check_finite, check_like
from fedlite.types import Array, Params

HE = (
    6**0.5
)  # a layer's `spread`: variance 2/fan_in, as ReLU without norms wants (He et al. 2015, equation 10)


def params_of(module: nn.Module) -> dict[str, Array]:
    """A copy of all weights and statistics, in the module's own order (that of `state_dict`)."""
    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
        for name, tensor in module.state_dict().items()
    }


def load_params(module: nn.Module, params: Params) -> None:
    """Copy `params` into the module. UpdateError unless names, order, shapes, dtype fit and all is finite."""
    check_like(params, layout(module), "params")
    check_finite(params, "params")
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(torch.tensor(params[name]))


def layout(module: nn.Module) -> Params:
    """Names and shapes, as arrays that take no memory: what `check_like` compares with."""
    state = module.state_dict()
    odd = [f"{name} ({tensor.dtype})" for name, tensor in state.items() if tensor.dtype != torch.float32]
    if odd:
        raise SettingsError(f"models hold float32 only, not {', '.join(odd)}")
    return {name: np.broadcast_to(np.float32(0), tuple(tensor.shape)) for name, tensor in state.items()}


def initial_params(model: nn.Module, seed: int) -> dict[str, Array]:
    """Fresh weights for `model`, which itself is left alone; the same seed gives the same bytes.

    Uniform(±1/√fan_in) for linear, convolution and recurrent layers (LeCun et al. 1998, "Efficient BackProp",
    §4.6, by range rather than deviation; PyTorch's default), times the layer's `spread` if it has one; N(0, 1)
    for embeddings, 1 and 0 for norms; statistics are 0, but variances 1. SettingsError for a layer without a
    rule.
    """
    fresh = {
        _join(path, name): _initial(layer, name, tuple(value.shape), seed, _join(path, name))
        for path, layer in model.named_modules()
        for name, value in layer.named_parameters(recurse=False)
    }
    statistics = {
        name: np.full(value.shape, name.endswith(".running_var"), np.float32)
        for name, value in model.named_buffers()
    }
    return {name: fresh[name] if name in fresh else statistics[name] for name in model.state_dict()}


def _initial(layer: nn.Module, name: str, shape: tuple[int, ...], seed: int, path: str) -> Array:
    random = generator(seed, "init", path)
    match layer:
        case nn.Linear() | nn.Conv1d() | nn.Conv2d():
            bound = float(layer.weight[0].numel()) ** -0.5 * getattr(layer, "spread", 1.0)
        case HadamardLinear() | HadamardConv2d():  # (FedPara §B.1: He et al. 2015's variance for the product)
            columns, rank = layer.get_parameter("y1").shape
            if name == "bias":
                return random.uniform(-1, 1, shape).astype(np.float32) * np.float32(columns**-0.5)
            spread = float(
                (2 / columns / rank**2) ** 0.125
            )  # each entry of W sums rank² products of four factors
            return np.asarray(random.standard_normal(shape) * spread, np.float32)
        case nn.LSTM() | nn.GRU():
            bound = float(layer.hidden_size) ** -0.5
        case nn.Embedding():
            return random.standard_normal(shape).astype(np.float32)
        case nn.GroupNorm() | nn.LayerNorm() | nn.BatchNorm2d():
            return np.full(shape, name == "weight", np.float32)
        case _:
            raise SettingsError(f"no initial values are defined for {type(layer).__name__} ({path!r})")
    return random.uniform(-bound, bound, shape).astype(np.float32)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
