"""Default boxes, how a detector's output is judged against true boxes, and how boxes are read from it.

SSD's way (Liu et al. 2016, "SSD: Single Shot MultiBox Detector", §2.2). Boxes, their coder, matcher and overlaps are
torchvision's, which is imported when a detector trains or detects: DataError without it, with the remedy.

True boxes are labels int64 (images, most boxes, 5): class, x1, y1, x2, y2. Classes begin at 1, coordinates are
pixels; a row of class 0 is none, so that images may have fewer boxes than others.
"""

import functools
import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fedlite.data.torchvision_shim import torchvision

PER_PLACE = 6  # two squares, and both ways of the ratios
RATIOS = [2, 3]
SCALES = (0.2, 0.95)  # of the image: the smallest and the largest map's boxes (SSDLite, torchvision's)
CODER = (10.0, 10.0, 5.0, 5.0)  # how much finer offsets of the centre and of the size are counted
LEAST_OVERLAP = 0.5  # of a default box with a true one, that it is taken for it (§2.2)
NEGATIVES = (
    3  # boxes of nothing that count, for each of something: those that look most like something (§2.2)
)
MOST = 400  # candidates in an image, before those that overlap are dropped

Maps = tuple[tuple[int, int], ...]  # height and width of each feature map


class Found(NamedTuple):
    """What was detected in one image, best first."""

    boxes: Tensor  # float32 (found, 4): x1, y1, x2, y2 in pixels, within the image
    classes: Tensor  # int64 (found,), from 1 on
    scores: Tensor  # float32 (found,), in (0, 1]


@functools.lru_cache(maxsize=8)
def default_boxes(size: tuple[int, int], maps: Maps) -> Tensor:
    """(boxes, 4) as x1, y1, x2, y2 in pixels, of an image of (height, width): PER_PLACE at every place. (§2.2)"""
    anchors = _detection("anchor_utils").DefaultBoxGenerator([RATIOS] * len(maps), *SCALES)
    images = _detection("image_list").ImageList(torch.empty(1, 3, *size), [size])
    found: Tensor = anchors(images, [torch.empty(1, 1, *each) for each in maps])[0]
    return found


def multibox_loss(outputs: Tensor, y: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, how many images are right) of outputs (images, boxes, 4 + 1 + classes). (Liu et al. 2016, eq. 1 to 3)

    Smooth L1 of the offsets and cross-entropy of the classes, over the number of matched boxes. An image is right
    when each true box has its class from a default box matched with it.
    """
    offsets, scores = outputs[..., :4], outputs[..., 4:]
    wanted = torch.zeros(outputs.shape[:2], dtype=torch.int64, device=outputs.device)
    misplaced = outputs.new_zeros(())
    right = torch.zeros((), dtype=torch.int64, device=outputs.device)
    coder = _detection("_utils").BoxCoder(CODER)
    for place, labels in enumerate(y):
        true = labels[labels[:, 0] > 0]
        match = _matched(true, boxes)
        of = match >= 0
        wanted[place, of] = true[match[of], 0]
        want = coder.encode_single(true[match[of], 1:].to(boxes.dtype), boxes[of])
        misplaced = misplaced + F.smooth_l1_loss(offsets[place, of], want, reduction="sum")
        told = scores[place].argmax(-1)[of] == wanted[place, of]
        right += len(torch.unique(match[of][told])) == len(true)
    mistaken = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
    counted = (wanted > 0) | _hardest(mistaken.detach(), wanted)
    return (misplaced + (mistaken * counted).sum()) / (wanted > 0).sum().clamp(min=1), right


def _matched(true: Tensor, boxes: Tensor) -> Tensor:
    """The true box of each default box, by place in `true`; negative where there is none."""
    if not len(true):
        return torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
    overlaps = torchvision().ops.box_iou(true[:, 1:].to(boxes.dtype), boxes)
    found: Tensor = _detection("_utils").SSDMatcher(LEAST_OVERLAP)(overlaps)
    return found


def _hardest(mistaken: Tensor, wanted: Tensor) -> Tensor:
    """Whether a box of nothing is among the NEGATIVES · matched ones of its image with the highest loss."""
    losses = mistaken.masked_fill(wanted > 0, -torch.inf)
    ranks = losses.argsort(stable=True, dim=1, descending=True).argsort(1)
    hardest: Tensor = ranks < NEGATIVES * (wanted > 0).sum(1, keepdim=True)
    return hardest


def detections(
    outputs: Tensor, boxes: Tensor, size: tuple[int, int], least_score: float, most_overlap: float
) -> list[Found]:
    """For each image what scores more than `least_score`, without those that overlap a better one of their class.

    Greedy non-maximum suppression at intersection over union `most_overlap`. (§2.2; torchvision's)
    """
    ops, coder = torchvision().ops, _detection("_utils").BoxCoder(CODER)
    found = []
    for output in outputs:
        scores = output[:, 4:].softmax(-1)[:, 1:]
        places, classes = torch.nonzero(scores > least_score, as_tuple=True)
        order = scores[places, classes].argsort(descending=True, stable=True)[:MOST]
        places, classes = places[order], classes[order]
        corners = ops.clip_boxes_to_image(coder.decode_single(output[places, :4], boxes[places]), size)
        kept = ops.batched_nms(corners, scores[places, classes], classes, most_overlap)
        found.append(Found(corners[kept], classes[kept] + 1, scores[places, classes][kept]))
    return found


def _detection(name: str) -> Any:
    """A module of torchvision.models.detection; untyped."""
    torchvision()
    return importlib.import_module(f"torchvision.models.detection.{name}")
