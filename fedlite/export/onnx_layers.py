"""Rules of operators that are layers: pooling, norms, dense and convolutional ones that do not round, attention."""

import math
from typing import Any

import numpy as np
import torch

from fedlite.errors import SettingsError
from fedlite.export.onnx_lowering import Lowering, Rule, convolution
from fedlite.export.onnx_recurrent import recurrent
from fedlite.export.traced import RECURRENT


def _pair(value: Any, like: list[int]) -> list[int]:
    return list(value) * len(like) if len(value) == 1 else list(value)


def _max_pool(
    low: Lowering, node: Any, x: Any, size: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> str:
    pads = _pair(padding, size)
    return low.graph.add(
        "MaxPool",
        low.name(x),
        kernel_shape=list(size),
        strides=_pair(stride or size, size),
        pads=[*pads, *pads],
        dilations=_pair(dilation, size),
        ceil_mode=int(ceil),
    )


def _average_pool(
    low: Lowering, node: Any, x: Any, size: Any, stride: Any, padding: Any = (0,), ceil: bool = False,
    count_padding: bool = True, *_: Any,
) -> str:  # fmt: skip
    pads = _pair(padding, size)
    return low.graph.add(
        "AveragePool",
        low.name(x),
        kernel_shape=list(size),
        strides=_pair(stride or size, size),
        pads=[*pads, *pads],
        ceil_mode=int(ceil),
        count_include_pad=int(count_padding),
    )


def _adaptive_average(low: Lowering, node: Any, x: Any, size: Any) -> str:
    """An average over equal windows; the mean of everything where the result is one place."""
    wanted, given = low.shape(node)[-len(size) :], low.shape(node.args[0])[-len(size) :]
    if set(wanted) == {1}:
        return low.graph.add("GlobalAveragePool", low.name(x))
    if any(have % want for have, want in zip(given, wanted, strict=True)):
        raise SettingsError(
            f"adaptive pooling of {given} to {wanted} has unequal windows, which ONNX has not"
        )
    window = [have // want for have, want in zip(given, wanted, strict=True)]
    return low.graph.add("AveragePool", low.name(x), kernel_shape=window, strides=window)


def _group_norm(
    low: Lowering, node: Any, x: Any, groups: int, weight: Any, bias: Any, epsilon: float, *_: Any
) -> str:
    """Each group as one channel of an InstanceNormalization; then each channel's own weight and bias."""
    sizes = low.shape(node)
    ones, zeros = (low.graph.constant(np.full(groups, value, np.float32)) for value in (1, 0))
    grouped = low.graph.add("Reshape", low.name(x), low.ints([0, groups, -1]))
    normal = low.graph.add("InstanceNormalization", grouped, ones, zeros, epsilon=epsilon)
    y = low.reshape(normal, sizes)
    for op, value in (("Mul", weight), ("Add", bias)):
        if value is not None:
            y = low.graph.add(op, y, low.name(value.reshape(-1, *[1] * (len(sizes) - 2))))
    return y


def _batch_norm(
    low: Lowering, node: Any, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool,
    momentum: float, epsilon: float, *_: Any,
) -> str:  # fmt: skip
    if training or mean is None:
        raise SettingsError("a BatchNorm that keeps no statistics answers by batch, which cannot be exported")
    values = [low.name(each) for each in (weight, bias, mean, variance)]
    return low.graph.add("BatchNormalization", low.name(x), *values, epsilon=epsilon)


def _layer_norm(
    low: Lowering, node: Any, x: Any, shape: list[int], weight: Any, bias: Any, epsilon: float, *_: Any
) -> str:
    given = torch.ones(shape) if weight is None else weight
    inputs = [low.name(given), *([] if bias is None else [low.name(bias)])]
    return low.graph.add("LayerNormalization", low.name(x), *inputs, axis=-len(shape), epsilon=epsilon)


def _embedding(low: Lowering, node: Any, weight: Any, x: Any, *_: Any) -> str:
    return low.graph.add("Gather", low.name(weight), low.name(x), axis=0)


def _linear(low: Lowering, node: Any, x: Any, weight: Any, bias: Any = None) -> str:
    """A dense layer that is not rounded."""
    if isinstance(weight, str):
        turned = low.graph.add("Transpose", weight, perm=[1, 0])
    else:
        turned = low.name(weight.T.contiguous())
    y = low.graph.add("MatMul", low.name(x), turned)
    return y if bias is None else low.graph.add("Add", y, low.name(bias))


def _conv(low: Lowering, node: Any, x: Any, weight: Any, bias: Any, *options: Any) -> str:
    """A convolution that is not rounded."""
    inputs = [low.name(each) for each in (x, weight, bias) if each is not None]
    return low.graph.add("Conv", *inputs, **convolution(list(options)))


def _gelu(low: Lowering, node: Any, x: Any, approximate: str = "none") -> str:
    return low.graph.add("Gelu", low.name(x), approximate=approximate)


def _silu(low: Lowering, node: Any, x: Any) -> str:
    return low.graph.add("Mul", low.name(x), low.graph.add("Sigmoid", low.name(x)))


def _attention(
    low: Lowering, node: Any, query: Any, key: Any, value: Any, mask: Any = None, dropout: float = 0.0,
    causal: bool = False, scale: float | None = None, *_: Any,
) -> str:  # fmt: skip
    """softmax(Q Kᵀ / √d + mask) V. (Vaswani et al. 2017, eq. 1)"""
    sizes = low.shape(node.args[1])
    order = [*range(len(sizes) - 2), len(sizes) - 1, len(sizes) - 2]
    turned = low.graph.add("Transpose", low.name(key), perm=order)
    scores = low.graph.add("MatMul", low.name(query), turned)
    scores = low.graph.add("Mul", scores, low.name(scale or 1 / math.sqrt(sizes[-1])))
    if causal:
        length = low.shape(node.args[0])[-2]
        mask = torch.ones(length, sizes[-2], dtype=torch.bool).tril()
    if mask is not None:
        scores = _masked(low, node, scores, mask)
    return low.graph.add("MatMul", low.graph.add("Softmax", scores, axis=-1), low.name(value))


def _masked(low: Lowering, node: Any, scores: str, mask: Any) -> str:
    kind = mask.dtype if isinstance(mask, torch.Tensor) else node.args[3].meta["val"].dtype
    if kind == torch.bool:
        return low.graph.add("Where", low.name(mask), scores, low.name(float(np.finfo(np.float32).min)))
    return low.graph.add("Add", scores, low.name(mask))


LAYERS: dict[str, Rule] = {
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), _average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), _adaptive_average),
    **dict.fromkeys(("conv1d", "conv2d"), _conv),
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "embedding": _embedding,
    "linear": _linear,
    "gelu": _gelu,
    "silu": _silu,
    "scaled_dot_product_attention": _attention,
    RECURRENT: recurrent,
}
