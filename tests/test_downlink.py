"""Steps and snapshots lead every client to the same bytes; what they lose, the next step carries."""

import numpy as np
import pytest

from fedlite.compress.presets import codec_by_name
from fedlite.compress.prune import magnitude_masks
from fedlite.downlink import Version, advance, bundle, receive, snapshot
from fedlite.errors import CodecError

INT8 = codec_by_name("int8")


def params(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.standard_normal((8, 16)).astype(np.float32),
        "b": rng.standard_normal(8).astype(np.float32),
    }


START = Version(0, params(0))


def test_every_way_to_a_version_ends_in_the_same_bytes() -> None:
    steps, held = [], START
    for seed in (1, 2, 3):
        step, held = advance(held, params(seed), {}, INT8)
        steps.append(step)
    by_steps = receive(bundle(steps), START, START.params, INT8)
    by_snapshot = receive(snapshot(held), None, START.params, INT8)
    assert by_steps.hash == by_snapshot.hash == held.hash
    assert by_steps.number == 3


def test_the_residual_is_carried() -> None:
    """Stepping to the same target again and again comes ever nearer: the loss is not forgotten."""
    target, held, errors = params(1), START, []
    for _ in range(3):
        _, held = advance(held, target, {}, INT8)
        errors.append(max(float(np.abs(target[name] - held.params[name]).max()) for name in target))
    assert errors[0] > 20 * errors[1] > 0
    assert errors[2] <= errors[1]


def test_pruned_weights_are_zero_on_arrival() -> None:
    masks = magnitude_masks(START.params, 0.5)
    step, held = advance(START, params(1), masks, INT8)
    got = receive(step, START, START.params, INT8)
    assert not got.params["w"][~masks["w"]].any()
    assert np.array_equal(got.masks["w"], masks["w"])
    assert got.hash == held.hash


def test_nothing_is_needed_when_up_to_date() -> None:
    assert receive(b"", START, START.params, INT8) is START


@pytest.mark.parametrize("held", [None, Version(1, params(0))])
def test_a_step_from_elsewhere_is_refused(held: Version | None) -> None:
    step, _ = advance(START, params(1), {}, INT8)
    with pytest.raises(CodecError):
        receive(step, held, START.params, INT8)


def test_damage_is_refused() -> None:
    step, _ = advance(START, params(1), {}, INT8)
    for bad in (step[:-1], step + b"\0", step[:5], b"\x07" + step[1:]):
        with pytest.raises(CodecError):
            receive(bad, START, START.params, INT8)
    for position in range(len(step)):
        altered = bytearray(step)
        altered[position] ^= 1
        try:
            version = receive(bytes(altered), START, START.params, INT8)
        except CodecError:
            continue
        assert version.number != 1, "nothing but the number it leads to, which its hash does not have, was altered"
