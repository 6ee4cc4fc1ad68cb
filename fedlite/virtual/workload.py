"""What local training asks of a device: floating point operations, and an estimate of peak memory.

Both are counted on torch's meta device, where layers have shapes and no values: no data, no memory, no time.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fedlite.errors import SettingsError
from fedlite.train_settings import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape = tuple[int, ...]

BACKWARD = 2  # a backward pass computes two products where the forward pass computes one
RUNTIME_BYTES = 256 * 2**20  # a client process with torch loaded, before any model: 254 MiB on x86-64 Linux
_FLOAT = 4

_forward: "WeakKeyDictionary[nn.Module, dict[Shape, int]]" = WeakKeyDictionary()


def forward_flops(model: "nn.Module", input_shape: Shape) -> int:
    """Floating point operations of one example's forward pass, a multiply-add counted as two. Cached per model.

    Matrix products and convolutions count, element-wise work does not. SettingsError when the model takes no
    example of this shape.
    """
    known = _forward.setdefault(model, {})
    if input_shape not in known:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            _run(model, input_shape, 1)
        known[input_shape] = int(counter.get_total_flops())
    return known[input_shape]


def training_flops(model: "nn.Module", input_shape: Shape, samples: int, epochs: int) -> int:
    """Floating point operations of local training: 3 × the forward pass for each sample of each epoch.

    The counter's own backward pass is not used: it overcounts depthwise convolutions.
    """
    return (1 + BACKWARD) * forward_flops(model, input_shape) * samples * epochs


def training_memory(
    model: "nn.Module", input_shape: Shape, batch_size: int, *, optimizer_copies: int = 0
) -> int:
    """Bytes at the peak of local training: an estimate, to say which models do not fit a device.

    The runtime; the weights received, those being trained and their gradients; `optimizer_copies` of them (1
    for momentum, 2 for Adam); and what autograd keeps of a batch of `batch_size` ≥ 1 for the backward pass.
    Work space inside a layer is not in it.
    """
    import torch
    from torch.nn import functional as F

    held: dict[int, Tensor] = {}  # by storage, and kept alive so that no storage's address is used again

    def keep(tensor: "Tensor") -> "Tensor":
        held[_storage(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits, weights = _run(model, input_shape, batch_size)
        F.cross_entropy(logits, torch.zeros(batch_size, dtype=torch.int64, device="meta"))
    for each in weights:
        held.pop(_storage(each), None)
    activations = sum(each.untyped_storage().nbytes() for each in held.values())
    parameters = sum(each.numel() for each in model.parameters())
    return RUNTIME_BYTES + (3 + optimizer_copies) * _FLOAT * parameters + activations


def step_operations(model: "nn.Module", input_shape: Shape) -> int:
    """Tensor operations that the forward and backward pass of a step start, views included.

    For a small model it is they, and not their arithmetic, that take the time.
    """
    import torch
    from torch.nn import functional as F
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        started = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.started += 1
            return func(*args, **(kwargs or {}))

    with Counter() as counter:  # type: ignore[no-untyped-call]
        logits, state = _run(model, input_shape, 2)
        loss = F.cross_entropy(logits, torch.zeros(2, dtype=torch.int64, device="meta"))
        torch.autograd.grad(loss, [each for each in state if each.requires_grad], allow_unused=True)
    return int(counter.started)


@dataclass(frozen=True)
class Workload:
    """What local training asks of a device, for any number of samples.

    `memory_first` is the peak for a batch of one, in bytes; each further sample of the batch adds `memory_more`.
    """

    flops_per_sample: int  # over all epochs
    memory_first: int
    memory_more: int
    batch_size: int  # 0 is all samples at once
    operations_per_step: int = 0
    epochs: int = 1

    def flops(self, samples: int) -> int:
        """Floating point operations of a client's round."""
        return self.flops_per_sample * samples

    def operations(self, samples: int) -> int:
        """Tensor operations of a client's round."""
        return self.operations_per_step * self.epochs * -(-samples // (self.batch_size or max(samples, 1)))

    def memory(self, samples: int) -> int:
        """Bytes at the peak of it; see `training_memory`."""
        batch = min(self.batch_size or samples, samples)
        return self.memory_first + max(batch - 1, 0) * self.memory_more


def workload(model: "nn.Module", input_shape: Shape, settings: TrainSettings) -> Workload:
    """The work of one client's round of this training. SettingsError as `forward_flops`."""
    copies = 2 if settings.optimizer == "adam" else int(settings.momentum > 0)
    one, two = (training_memory(model, input_shape, size, optimizer_copies=copies) for size in (1, 2))
    per_sample = training_flops(model, input_shape, 1, settings.epochs)
    operations = step_operations(model, input_shape)
    return Workload(per_sample, one, two - one, settings.batch_size, operations, settings.epochs)


def _run(model: "nn.Module", input_shape: Shape, batch_size: int) -> tuple["Tensor", list["Tensor"]]:
    """(logits, weights) of a batch on the meta device; the model itself is left alone."""
    import torch
    from torch import nn
    from torch.func import functional_call

    state: dict[str, Any] = {
        name: torch.empty_like(value, device="meta").requires_grad_(isinstance(value, nn.Parameter))
        for name, value in [*model.named_parameters(), *model.named_buffers()]
    }
    symbols = any(isinstance(layer, nn.Embedding) for layer in model.modules())
    x = torch.empty(batch_size, *input_shape, dtype=torch.int64 if symbols else torch.float32, device="meta")
    try:
        return functional_call(model, state, (x,)), list(state.values())
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise SettingsError(
            f"{type(model).__name__} takes no examples of shape {input_shape}: {error}"
        ) from error


def _storage(tensor: "Tensor") -> int:
    return int(tensor.untyped_storage()._cdata)
