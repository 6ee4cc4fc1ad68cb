"""torchvision imports beside any torch, and its suppression of overlapping boxes is the published one."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from fedlite.data.torchvision_shim import nms, torchvision


def test_it_imports_and_its_data_sets_work() -> None:
    package = torchvision()
    assert package.__name__ == "torchvision"
    assert torchvision() is package
    fake = package.datasets.FakeData(size=3, image_size=(3, 8, 8), num_classes=2)
    assert len(fake) == 3
    assert fake[0][0].size == (8, 8)


def test_a_fresh_process_needs_nothing_else() -> None:
    program = (
        "from fedlite.data.torchvision_shim import torchvision\n"
        "import sys; assert 'torch' not in sys.modules\n"
        "print(torchvision().ops.nms.__module__)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "torchvision.ops.boxes"), done.stderr


BOXES = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [20, 20, 30, 30]], dtype=torch.float32)


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [
        (0.9, [1, 3, 0, 2]),  # overlaps with box 1: box 0 80/100, box 2 50/80; nothing is above 0.9
        (0.7, [1, 3, 2]),  # 0.8 goes, 0.625 stays
        (0.6, [1, 3]),
        (0.625, [1, 3, 2]),  # equal is not greater
    ],
)
def test_suppression_by_hand(threshold: float, kept: list[int]) -> None:
    scores = torch.tensor([0.5, 0.9, 0.1, 0.7])
    assert torchvision().ops.nms(BOXES, scores, threshold).tolist() == kept
    assert nms(BOXES, scores, threshold).tolist() == kept


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    scores = torch.tensor([0.5, 0.9, 0.1, 0.7])
    kept = torchvision().ops.batched_nms(BOXES, scores, torch.tensor([0, 1, 0, 1]), 0.1)
    assert kept.tolist() == [1, 3, 0]


def test_no_boxes_and_empty_boxes() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
    assert nms(torch.zeros(2, 4), torch.tensor([0.1, 0.2]), 0.5).tolist() == [1, 0]


def test_suppression_agrees_with_the_definition() -> None:
    """Kept boxes overlap no better kept box; every other overlaps a better kept one."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (60, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 30, (60, 2))], axis=1)
    scores = rng.permutation(60) / 60
    kept = nms(torch.tensor(boxes), torch.tensor(scores), 0.4).tolist()
    assert kept == sorted(kept, key=lambda place: -scores[place])
    for place in range(60):
        better = [other for other in kept if scores[other] > scores[place]]
        hit = any(overlap(boxes[place], boxes[other]) > 0.4 for other in better)
        assert hit == (place not in kept)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def test_a_detector_runs() -> None:
    model = torchvision().models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )
    with torch.no_grad():
        (found,) = model.eval()([torch.rand(3, 64, 64)])
    assert found["boxes"].shape == (len(found["scores"]), 4)
