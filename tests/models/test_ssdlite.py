"""SSDLite: its size, its loss by hand, and that it learns boxes and finds them in images it has not seen."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from fedlite import models
from fedlite.compress import quantize
from fedlite.compress.integer import to_integer
from fedlite.data.torchvision_shim import torchvision
from fedlite.errors import DataError, SettingsError
from fedlite.models.boxes import default_boxes, detections, multibox_loss
from fedlite.models.registry import ModelSpec, resolve, skeleton
from fedlite.models.ssdlite import SsdLite
from fedlite.train import TrainSettings, evaluate, local_train

SMALL = {
    "input_shape": (1, 24, 24),
    "num_classes": 2,
    "width": 0.125,
    "stem_stride": 1,
    "levels": 2,
}


def detector(**more: object) -> SsdLite:
    model = models.build("ssdlite", **(SMALL | more))
    assert isinstance(model, SsdLite)
    return model


def scenes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one box: a bright one (class 1) or a dark one (class 2) of 7 to 14 pixels a side."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 0.2, (count, 1, 24, 24)).astype(np.float32)
    y = np.zeros((count, 2, 5), np.int64)
    for image, labels in zip(x, y, strict=True):
        width, height = random.integers(7, 15, 2)
        left, top, kind = (
            random.integers(0, 24 - width),
            random.integers(0, 24 - height),
            random.integers(1, 3),
        )
        image[0, top : top + height, left : left + width] += 2 if kind == 1 else -2
        labels[0] = kind, left, top, left + width, top + height
    return x, y


def test_it_is_as_large_as_published() -> None:
    """4.3 million parameters (Sandler et al. 2018, Table 6); 6 boxes at 20² + 10² + 5² + 3² + 2² + 1² places."""
    net = skeleton(resolve("ssdlite", {}))
    assert sum(each.numel() for each in net.parameters()) == pytest.approx(4.3e6, rel=0.05)
    boxes = 6 * (400 + 100 + 25 + 9 + 4 + 1)
    assert net(torch.empty(2, 3, 320, 320, device="meta")).shape == (2, boxes, 4 + 1 + 80)
    assert default_boxes((320, 320), net.grid).shape == (boxes, 4)  # type: ignore[arg-type]
    assert ModelSpec.from_json(models.spec_of(net).to_json()) == models.spec_of(net)


def test_the_first_default_boxes_are_ssds() -> None:
    """One map of 2×2 on 100×100: centres 25 and 75; side .2 · 100, then √(.2 · .95) · 100; ratios 2 and 3."""
    boxes = default_boxes((100, 100), ((2, 2),))
    sizes = [(20.0, 20.0), (100 * (0.2 * 0.95) ** 0.5,) * 2]
    sizes += [(20 * r**0.5, 20 / r**0.5)[::turn] for r in (2, 3) for turn in (1, -1)]
    want = [[25 - w / 2, 25 - h / 2, 25 + w / 2, 25 + h / 2] for w, h in sizes]
    np.testing.assert_allclose(boxes[:6].numpy(), want, rtol=1e-4, atol=1e-4)
    assert boxes.shape == (24, 4)


def test_the_loss_by_hand() -> None:
    """Ten places, one true box a pixel beside the first: its offset is 10 · 1/10, smooth L1 of 1 is 1/2. Classes:
    it and three of nothing, ln 2 each while all logits are equal; over one matched box."""
    boxes = torch.tensor([[20.0 * n, 0, 20 * n + 10, 10] for n in range(10)])
    y = torch.tensor([[[1, 1, 0, 11, 10], [0, 0, 0, 0, 0]]])
    loss, right = multibox_loss(torch.zeros(1, 10, 6), y, boxes)
    assert float(loss) == pytest.approx(4 * math.log(2) + 0.5)
    assert int(right) == 0
    sure = torch.zeros(1, 10, 6)
    sure[0, :, 4], sure[0, 0, 4], sure[0, 0, 5], sure[0, 0, 0] = 50, 0, 50, 1
    loss, right = multibox_loss(sure, y, boxes)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert int(right) == 1
    empty, right = multibox_loss(torch.zeros(1, 10, 6), y * 0, boxes)
    assert (float(empty), int(right)) == (0, 1)


def test_of_boxes_that_overlap_the_best_is_found() -> None:
    """Overlap of the first two: 9 · 10 of 11 · 10. The third is of the other class, the fourth elsewhere."""
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60], [95, 0, 105, 10]]
    )
    outputs = torch.zeros(1, 5, 7)
    outputs[0, :, 4:] = torch.tensor([[0.0, 3, 0], [0, 4, 0], [0, 0, 5], [0, 6, 0], [9, 0, 0]])
    (found,) = detections(outputs, boxes, (100, 100), 0.5, 0.45)
    assert found.classes.tolist() == [1, 2, 1]
    assert found.boxes.tolist() == [[50, 50, 60, 60], [0, 0, 10, 10], [1, 0, 11, 10]]
    assert found.scores.tolist() == pytest.approx([1 / (1 + 2 * math.exp(-each)) for each in (6, 5, 4)])


def test_it_learns_boxes_and_finds_them() -> None:
    model = detector()
    (x, y), (held_out, true) = scenes(200, 0), scenes(50, 1)
    first = models.params_of(model)
    settings = TrainSettings(batch_size=16, epochs=6, optimizer="adam", learning_rate=0.005)
    result = local_train(model, first, x, y, settings, seed=0)
    assert evaluate(model, result.params, x, y)["loss"] < evaluate(model, first, x, y)["loss"] / 2
    models.load_params(model, result.params)
    with torch.no_grad():
        found = model.eval().detect(model(torch.from_numpy(held_out)))
    hits = 0
    for (kind, *corners), (boxes, classes, _) in zip(true[:, 0], found, strict=True):
        overlap = torchvision().ops.box_iou(torch.tensor([corners], dtype=torch.float32), boxes[:1])
        hits += bool(len(boxes)) and int(classes[0]) == kind and float(overlap.max()) > 0.5
    assert hits >= 40


def test_it_trains_rounding_and_becomes_integers() -> None:
    model, (x, y) = detector(norm="batch", batch_stats="none"), scenes(32, 0)
    settings = TrainSettings(batch_size=16, epochs=2, optimizer="adam", learning_rate=0.005, bits=8)
    start = models.params_of(quantize.at(model, 8))
    result = local_train(model, start, x, y, settings, seed=0)
    assert evaluate(model, result.params, x, y, bits=8)["loss"] < evaluate(model, start, x, y, bits=8)["loss"]
    rounded = quantize.at(model, 8).eval()
    models.load_params(rounded, result.params)
    with torch.no_grad():
        want = rounded(torch.from_numpy(x)).numpy()
    got = to_integer(model, result.params).run(x)
    assert (
        np.median(np.abs(got - want)) <= 0.01 * np.abs(want).max()
    )  # a half that flips in one layer moves the next


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2,), np.int64), "images, boxes, 5"),
        (np.array([[[3, 0, 0, 5, 5]]] * 2), "1 to 2 wanted"),
        (np.array([[[1, 5, 0, 5, 5]]] * 2), "no area"),
        (np.array([[[1, 0, 0, 25, 5]]] * 2), "within 24"),
    ],
)
def test_labels_that_are_no_boxes_are_refused(labels: np.ndarray, message: str) -> None:
    model = detector()
    with pytest.raises(DataError, match=message):
        evaluate(model, models.params_of(model), scenes(2, 0)[0], labels)
    with pytest.raises(DataError, match=message):
        local_train(model, models.params_of(model), scenes(2, 0)[0], labels, TrainSettings(), seed=0)


def test_feature_maps_there_are_not_are_refused() -> None:
    with pytest.raises(SettingsError, match="2 to 6"):
        detector(levels=7)


def test_a_device_without_torchvision_can_hold_one() -> None:
    code = "import sys; from fedlite.models.registry import *; skeleton(resolve('ssdlite', {}))"
    code += "; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
