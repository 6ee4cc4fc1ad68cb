"""Blocks of clients with budgets: what the compiled coder gives is what `rate.fit` gives each of them, bit for bit."""

import numpy as np
import pytest

from fedlite.compress.presets import codec_by_name
from fedlite.compress.rate import fit
from fedlite.errors import SettingsError
from fedlite.types import Array, Masks
from fedlite.virtual.coding import Coded, code_rows
from fedlite.virtual.fitted import Budgets
from tests.virtual.test_coding import flat, named
from tests.virtual.test_coding_steps import like, products, some_masks

SMALL = codec_by_name("sparse")


def budgets(*most: int) -> Budgets:
    """With 30 bytes each that are no payload."""
    return Budgets(np.array(most), np.full(len(most), 30))


def assert_as_fit(
    coded: Coded, rows: Array, owed: Array | None, masks: Masks, of: Budgets, place: int
) -> None:
    before = None if owed is None else named(owed[place], like())
    payload, rest, deviations = fit(
        SMALL, named(rows[place], like()), before, int(of.most[place]), overhead=30, masks=masks
    )
    assert coded.sizes[place] == len(payload)
    assert coded.deviations is not None
    assert coded.deviations[place] == deviations
    assert coded.residual is not None
    np.testing.assert_array_equal(coded.decoded[place], flat(SMALL.decode(payload, like(), masks=masks)))
    np.testing.assert_array_equal(coded.residual[place], flat(rest))


@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
@pytest.mark.parametrize("owing", [False, True], ids=["owing nothing", "owing"])
def test_each_row_as_if_alone(owing: bool, masked: bool) -> None:
    masks = some_masks(1) if masked else {}
    rows, owed = products(5, 3, 0.7), products(5, 13, 0.7) if owing else None
    of = budgets(1000, 2000, 4000, 700, 10**6)
    hashes = set()
    for threads in (1, 3):
        coded = code_rows(
            SMALL, rows.copy(), None if owed is None else owed.copy(), like=like(), masks=masks, seeds=range(5),
            budgets=of, threads=threads,
        )  # fmt: skip
        hashes.add(coded.decoded.tobytes() + coded.sizes.tobytes())
    assert len(hashes) == 1
    assert not coded.failed
    for place in range(5):
        assert_as_fit(coded, rows, owed, masks, of, place)


@pytest.mark.parametrize("name", ["sparse", "step:2+zstd:1"])
@pytest.mark.parametrize("owing", [False, True], ids=["owing nothing", "owing"])
def test_who_has_no_limit_no_finite_values_or_no_room(owing: bool, name: str) -> None:
    """Row 0 has no limit, row 1 is infinite, row 2's budget is too small, row 3 is as ever."""
    codec = codec_by_name(name)
    rows, owed = products(4, 5, 0.7), products(4, 15, 0.7) if owing else None
    rows[1, 77] = np.inf
    before = None if owed is None else owed.copy()
    coded = code_rows(
        codec, rows.copy(), before, like=like(), masks={}, seeds=range(4), budgets=budgets(0, 5000, 40, 5000)
    )
    free = code_rows(
        codec, rows[:1].copy(), None if owed is None else owed[:1].copy(), like=like(), masks={}, seeds=[0]
    )
    assert coded.sizes[0] == free.sizes[0]
    np.testing.assert_array_equal(coded.decoded[0], free.decoded[0])
    assert coded.finite.tolist() == [True, False, False, True]
    assert list(coded.failed) == [2]
    assert "40 bytes is too small for this update" in coded.failed[2]
    assert coded.residual is not None
    for place in (1, 2):
        assert coded.sizes[place] == 0
        assert not coded.decoded[place].any()
        want = np.zeros(rows.shape[1]) if owed is None else owed[place]
        np.testing.assert_array_equal(coded.residual[place], want)
    assert 0.95 * 5000 < coded.sizes[3] + 30 <= 5000


def test_a_codec_without_a_step_is_refused() -> None:
    with pytest.raises(SettingsError, match="small or smallest"):
        code_rows(
            codec_by_name("int8"),
            products(1, 1, 0.5),
            None,
            like=like(),
            masks={},
            seeds=[0],
            budgets=budgets(9000),
        )
