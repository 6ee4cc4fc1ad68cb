"""torchvision, imported lazily, and beside a CPU torch too.

torchvision's compiled operators belong to one build of torch. Where they do not load (a CUDA build beside a
CPU torch) its import fails at once, because it describes `torchvision::nms` and `::qnms` without having
declared them. Here both are declared first, with `nms` in torch: data sets, transforms, classification
models and SSDLite then work. Where the real operators load, nothing is declared.
"""

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedlite.errors import DataError

if TYPE_CHECKING:
    import torch


@functools.cache
def torchvision() -> ModuleType:
    """The torchvision package. DataError when it is not installed."""
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("torchvision is not installed", remedy="pip install fedlite[vision]")
    real = _operators_load(spec.submodule_search_locations[0])
    if not real:
        _declare()
    module = importlib.import_module("torchvision")
    if not real:  # its guard asks for the compiled operators; ours is there instead
        importlib.import_module("torchvision.ops.boxes").__dict__["_assert_has_ops"] = lambda: None
    return module


def _operators_load(folder: str) -> bool:
    """Whether torchvision's own compiled operators load beside this torch."""
    import torch

    loader = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    spec = importlib.machinery.FileFinder(folder, loader).find_spec("_C")
    if spec is None or spec.origin is None:
        return False
    try:
        load: Any = torch.ops.load_library  # untyped
        load(spec.origin)
    except (ImportError, OSError):
        return False
    return True


@functools.cache  # keeps the library: what it declares goes when it is collected
def _declare() -> Any:
    import torch

    make: Any = torch.library.Library  # untyped
    library = make("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CPU")
    return library


def nms(boxes: "torch.Tensor", scores: "torch.Tensor", iou_threshold: float) -> "torch.Tensor":
    """Greedy non-maximum suppression: int64 indices of the kept boxes, best score first.

    `boxes` (n, 4) as x1, y1, x2, y2; a box goes when its overlap (intersection over union) with a
    better kept one is greater than `iou_threshold`. Equal scores keep their order.
    """
    import torch

    order = torch.argsort(scores, descending=True, stable=True)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[_overlap(boxes[best], boxes[order]) <= iou_threshold]
    return torch.stack(kept) if kept else order


def _overlap(box: "torch.Tensor", others: "torch.Tensor") -> "torch.Tensor":
    """Intersection over union of one box (4,) with others (n, 4); 0 where both are empty."""
    import torch

    corner = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    shared = corner.clamp(min=0).prod(dim=1)
    area = (box[2:] - box[:2]).prod()
    total = area + (others[:, 2:] - others[:, :2]).prod(dim=1) - shared
    return torch.where(total > 0, shared / total, torch.zeros_like(shared))
