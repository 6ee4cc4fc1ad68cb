"""The rule of each ATen operator: what it is in ONNX. Each takes (lowering, traced node, *the operator's arguments)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fedlite.export.onnx_layers import LAYERS
from fedlite.export.onnx_lowering import Lowering, Rule

_TYPES = {torch.float32: 1, torch.int64: 7, torch.int32: 6, torch.bool: 9}


def _same(low: Lowering, node: Any, x: Any, *_: Any) -> Any:
    return x


def _unary(op: str, **attributes: Any) -> Rule:
    return lambda low, node, x, *_: low.graph.add(op, low.name(x), **attributes)


def _binary(op: str) -> Rule:
    def rule(low: Lowering, node: Any, x: Any, y: Any, alpha: Any = 1, *_: Any) -> str:
        kinds = [_kind(node, place, value) for place, value in enumerate((x, y))]
        kind = torch.promote_types(*kinds)
        left, right = (_as(low, value, own, kind) for value, own in zip((x, y), kinds, strict=True))
        if alpha not in (1, None):
            right = low.graph.add("Mul", right, _as(low, alpha, kind, kind))
        return low.graph.add(op, left, right)

    return rule


def _kind(node: Any, place: int, value: Any) -> torch.dtype:
    """The dtype of an argument; a plain number's is float32, or does not matter (bool, the least of all)."""
    argument = node.args[place]
    if isinstance(argument, torch.fx.Node):
        return argument.meta["val"].dtype  # type: ignore[no-any-return]
    return torch.float32 if isinstance(value, float) else torch.bool


def _as(low: Lowering, value: Any, own: torch.dtype, kind: torch.dtype) -> str:
    """A value in dtype `kind`."""
    if isinstance(value, str):
        return value if own == kind else low.graph.add("Cast", value, to=_TYPES[kind])
    return low.name(torch.as_tensor(value, dtype=kind))


def _compare(op: str, negate: bool = False) -> Rule:
    def rule(low: Lowering, node: Any, x: Any, y: Any) -> str:
        found: str = _binary(op)(low, node, x, y)
        return low.graph.add("Not", found) if negate else found

    return rule


def _clip(low: Lowering, node: Any, x: Any, low_end: Any, high_end: Any) -> str:
    ends = ["" if end is None else low.name(float(end)) for end in (low_end, high_end)]
    return low.graph.add("Clip", low.name(x), *ends)


def _reshaped(low: Lowering, node: Any, x: Any, *_: Any) -> str:
    return low.reshape(low.name(x), low.shape(node))


def _transpose(low: Lowering, node: Any, x: Any, first: int, second: int) -> str:
    order = list(range(len(low.shape(node))))
    order[first], order[second] = order[second], order[first]
    return low.graph.add("Transpose", low.name(x), perm=order)


def _permute(low: Lowering, node: Any, x: Any, order: list[int]) -> str:
    return low.graph.add("Transpose", low.name(x), perm=[place % len(order) for place in order])


def _cast(low: Lowering, node: Any, x: Any, *_: Any) -> str:
    """To the dtype that tracing found."""
    before, after = node.args[0].meta["val"].dtype, node.meta["val"].dtype
    return low.name(x) if before == after else low.graph.add("Cast", low.name(x), to=_TYPES[after])


def _expand(low: Lowering, node: Any, x: Any, *_: Any) -> str:
    return low.graph.add("Expand", low.name(x), low.sizes(low.shape(node)))


def _filled(value: float | None) -> Rule:
    def rule(low: Lowering, node: Any, *arguments: Any) -> str:
        fill = arguments[1] if value is None else value
        held = torch.full([1] * len(low.shape(node)), fill, dtype=node.meta["val"].dtype)
        return low.graph.add("Expand", low.name(held), low.sizes(low.shape(node)))

    return rule


def _cat(low: Lowering, node: Any, parts: list[Any], axis: int = 0) -> str:
    return low.graph.add("Concat", *map(low.name, parts), axis=axis % len(low.shape(node)))


def _slice(
    low: Lowering, node: Any, x: Any, axis: int = 0, start: Any = 0, end: Any = None, step: int = 1
) -> str:
    if low.shape(node) == low.shape(node.args[0]) and step == 1:
        return low.name(x)
    first, last = start or 0, 2**62 if end is None else end
    return low.graph.add("Slice", low.name(x), *(low.ints([each]) for each in (first, last, axis, step)))


def _pieces(low: Lowering, node: Any, x: Any, _: Any, axis: int = 0) -> list[str]:
    """chunk, split: the sizes are those that tracing found."""
    sizes = [piece.shape[axis] for piece in node.meta["val"]]
    ends = np.cumsum([0, *sizes]).tolist()
    return [_slice_of(low, low.name(x), axis, *ends[place : place + 2]) for place in range(len(sizes))]


def _slice_of(low: Lowering, x: str, axis: int, start: int, end: int) -> str:
    return low.graph.add("Slice", x, *(low.ints([each]) for each in (start, end, axis)))


def _select(low: Lowering, node: Any, x: Any, axis: int, index: int) -> str:
    return low.graph.add("Gather", low.name(x), low.graph.constant(index, np.int64), axis=axis)


def _reduce(op: str) -> Rule:
    def rule(low: Lowering, node: Any, x: Any, axes: Any = None, keep: bool = False, *_: Any) -> str:
        x, axes = _cast(low, node, x), [axes] if isinstance(axes, int) else axes
        given = [low.ints(axes)] if axes else []
        return low.graph.add(op, low.name(x), *given, keepdims=int(keep))

    return rule


def _softmax(op: str) -> Rule:
    return lambda low, node, x, axis, *_: low.graph.add(op, low.name(x), axis=axis)


def _where(low: Lowering, node: Any, condition: Any, yes: Any, no: Any) -> str:
    return low.graph.add("Where", low.name(condition), low.name(yes), low.name(no))


def _masked_fill(low: Lowering, node: Any, x: Any, mask: Any, value: Any) -> str:
    return low.graph.add("Where", low.name(mask), low.name(value), low.name(x))


def _power(low: Lowering, node: Any, x: Any, exponent: Any) -> str:
    return low.graph.add("Pow", low.name(x), low.name(exponent))


def _rsqrt(low: Lowering, node: Any, x: Any) -> str:
    return low.graph.add("Reciprocal", low.graph.add("Sqrt", low.name(x)))


_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("dropout", "contiguous", "clone", "detach", "alias", "lift_fresh_copy", "feature_dropout"), _same),
    **dict.fromkeys(("view", "reshape", "flatten", "unsqueeze", "squeeze", "unflatten", "_unsafe_view"), _reshaped),
    **dict.fromkeys(("to", "_to_copy", "type_as"), _cast),
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), _pieces),
    **dict.fromkeys(("hardtanh", "clamp"), _clip),
    **dict.fromkeys(("matmul", "mm", "bmm"), _binary("MatMul")),
    **dict.fromkeys(("cat", "concat"), _cat),
    **{op: _unary(op.title()) for op in ("relu", "sigmoid", "tanh", "exp", "log", "sqrt", "neg", "abs", "erf")},
    **{op: _binary(op.title()) for op in ("add", "sub", "mul", "div")},
    "relu6": lambda low, node, x: _clip(low, node, x, 0, 6),
    "hardsigmoid": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": _unary("HardSwish"),
    "leaky_relu": lambda low, node, x, slope: low.graph.add("LeakyRelu", low.name(x), alpha=slope),
    "logical_not": _unary("Not"),
    "bitwise_not": _unary("Not"),
    "rsub": lambda low, node, x, y, *_: low.graph.add("Sub", low.name(y), low.name(x)),
    "rsqrt": _rsqrt,
    "pow": _power,
    "eq": _compare("Equal"),
    "ne": _compare("Equal", negate=True),
    "gt": _compare("Greater"),
    "lt": _compare("Less"),
    "transpose": _transpose,
    "t": lambda low, node, x: _permute(low, node, x, [1, 0]),
    "permute": _permute,
    "expand": _expand,
    "zeros": _filled(0),
    "ones": _filled(1),
    "new_zeros": _filled(0),
    "full": _filled(None),
    "slice": _slice,
    "select": _select,
    "mean": _reduce("ReduceMean"),
    "sum": _reduce("ReduceSum"),
    "amax": _reduce("ReduceMax"),
    "softmax": _softmax("Softmax"),
    "log_softmax": _softmax("LogSoftmax"),
    "where": _where,
    "masked_fill": _masked_fill,
    **LAYERS,
}  # fmt: skip


def rules() -> dict[str, Rule]:
    """The rule of each operator by its ATen name."""
    return dict(_RULES)
