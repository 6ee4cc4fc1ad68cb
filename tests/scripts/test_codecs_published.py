"""scripts/reproduce/codecs.py: the published methods do what their papers prove, and the comparison is fair."""

import json
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fedlite.types import Array, Update
from scripts.reproduce.published import bits, chart, qsgd, rotated, sparse, updates
from scripts.reproduce.published.base import Method, flat, shaped
from scripts.reproduce.published.front import Point, cosine_at, front, margins
from scripts.reproduce.published.powersgd import PowerSgd
from scripts.reproduce.published.qsgd import FedPaq, Qsgd
from scripts.reproduce.published.rotated import Eden
from scripts.reproduce.published.sparse import TopK

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/reproduce/codecs.py"


def gaussian(size: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(size, np.float32)


def update(seed: int = 1) -> Update:
    """Four tensors, one of them far larger than the others, one with a single value."""
    shapes = {"conv": (6, 3, 3, 3), "bias": (6,), "dense": (40, 30), "scale": (1,)}
    return {
        name: (gaussian(math.prod(shape), seed + index) * 0.01).reshape(shape)
        for index, (name, shape) in enumerate(shapes.items())
    }


def cosine(one: Array, other: Array) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


ELIAS = {
    1: "0", 2: "100", 3: "110", 4: "101000", 7: "101110", 8: "1110000", 15: "1111110", 16: "10100100000",
    100: "1011011001000",
}  # fmt: skip


@pytest.mark.parametrize(("value", "code"), ELIAS.items())
def test_elias_code_by_hand(value: int, code: str) -> None:
    """100 is 1100100 (7 bits), 6 is 110 (3 bits), 2 is 10, 1 ends: 10 110 1100100 0."""
    words, lengths = bits.elias(np.array([value]))
    assert "".join(map(str, bits.write(words, lengths))) == code


def test_elias_is_read_back_wherever_it_starts() -> None:
    values = np.concatenate([np.arange(1, 3000), 2 ** np.arange(0, 31)])
    words, lengths = bits.elias(values)
    read, ends = bits.elias_anywhere(bits.write(words, lengths), int(values.max()))
    starts = np.cumsum(lengths) - lengths
    np.testing.assert_array_equal(read[starts], values)
    np.testing.assert_array_equal(ends[starts], starts + lengths)


def test_rice_gaps_by_hand() -> None:
    """2 of 8 places: one low bit (1 + floor(log2(ln .618 / ln .75)) = 1). Gaps 1 and 4 are 01|1 and 001|0."""
    assert bits.rice_parameter(2, 8) == 1
    packed = bits.pack_gaps(np.array([1, 6]), 8)
    assert packed == bytes([0b10010000, 0b10000000])
    assert bits.unpack_gaps(packed, 2, 8).tolist() == [1, 6]


def test_fixed_width_by_hand() -> None:
    packed = bits.pack_fixed(np.array([5, 0, 7]), 3)
    assert packed == bytes([0b10100011, 0b10000000])
    assert bits.unpack_fixed(packed, 3, 3).tolist() == [5, 0, 7]


def test_qsgd_is_unbiased_with_the_variance_of_the_paper() -> None:
    """Lemma 3.1: E Q(v) = v, and E ‖Q(v) − v‖² ≤ min(n / s², √n / s) ‖v‖²."""
    values, levels, draws = gaussian(64), 4, 4000
    square = float(np.square(values).sum())
    total, error = np.zeros(64), 0.0
    for seed in range(draws):
        read = qsgd.restore(*qsgd.quantize(values, levels, 0, "2", seed), levels, 0)
        total += read
        error += float(np.square(read - values).sum()) / draws
    assert error <= min(64 / levels**2, math.sqrt(64) / levels) * square
    standard_error = (
        math.sqrt(square) / levels / 2 / math.sqrt(draws)
    )  # of one mean: within a level, at most half
    assert np.abs(total / draws - values).max() < 5 * standard_error


def test_qsgd_sparse_code_by_hand() -> None:
    """Levels 0 0 −2 0 1: gap 3 (110), minus (1), 2 (100); gap 2 (100), plus (0), 1 (0)."""
    whole = np.array([0, 0, -2, 0, 1])
    assert "".join(map(str, qsgd.sparse_code(whole))) == "110" + "1" + "100" + "100" + "0" + "0"
    assert "".join(map(str, qsgd.dense_code(whole))) == "0" + "0" + "110" + "1" + "0" + "100" + "0"


@pytest.mark.parametrize("size", range(1, 40))
def test_qsgd_codes_are_read_back(size: int) -> None:
    """At every length, so at every number of bits left over in the last byte."""
    rng = np.random.default_rng(size)
    like = {"w": np.zeros(size, np.float32)}
    for levels in (1, 3, 50):
        values = rng.standard_normal(size).astype(np.float32)
        codec = Qsgd(levels)
        norms, whole = qsgd.quantize(values, levels, 0, "2", 7)
        read = codec.decode(codec.encode({"w": values}, 7), like, 7)["w"]
        np.testing.assert_array_equal(read, qsgd.restore(norms, whole, levels, 0))
        np.testing.assert_array_equal(qsgd.read_dense(qsgd.dense_code(whole), size, levels), whole)


@pytest.mark.parametrize("per_tensor", [False, True])
def test_fedpaq_has_a_sign_and_the_level_s_bits(per_tensor: bool) -> None:
    """s = 5 has levels 0 … 5: 3 bits. 1369 values, 1 or 4 norms."""
    sent, codec = update(), FedPaq(5, per_tensor)
    size = flat(sent).size
    assert size == 162 + 6 + 1200 + 1
    payload = codec.encode(sent, 3)
    assert len(payload) == 4 * (4 if per_tensor else 1) + math.ceil(size / 8) + math.ceil(3 * size / 8)
    norm = np.linalg.norm(flat(sent))
    if not per_tensor:
        levels = flat(codec.decode(payload, sent, 3)) * 5 / norm
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-5)


def test_hadamard_against_its_definition() -> None:
    """H[i, j] = (−1)^(bits that i and j share) / √n; it is its own inverse."""
    for size in (1, 2, 8, 128, 4096):
        places = np.arange(size)
        values = gaussian(size)
        done = rotated.hadamard(values)
        np.testing.assert_allclose(rotated.hadamard(done), values, atol=1e-5)
        if size <= 128:
            shared = np.bitwise_count(places[:, None] & places)
            matrix = (-1.0) ** shared / math.sqrt(size)
            np.testing.assert_allclose(done, matrix @ values, atol=1e-5)


def test_blocks_cover_with_little_padding() -> None:
    assert rotated.blocks(5000) == [(0, 4096), (4096, 1024)]  # 904 are left, filled up to 1024
    assert rotated.blocks(4096) == [(0, 4096)]
    assert rotated.blocks(3) == [(0, 4)]


def test_lloyd_max_levels_as_published() -> None:
    """Max 1960, Table I: 2, 4 and 8 levels of a normal variable."""
    assert rotated.centres(1) == pytest.approx([-0.7979, 0.7979], abs=1e-4)
    assert rotated.centres(2)[2:] == pytest.approx([0.4528, 1.510], abs=1e-3)
    assert rotated.centres(3)[4:] == pytest.approx([0.2451, 0.7560, 1.344, 2.152], abs=1e-3)


def test_drive_s_cosine_is_root_two_over_pi() -> None:
    """Of any vector, here one with a single value: its rotation is Gaussian. (Vargaftik 2021, §4)"""
    like = {"w": gaussian(2**16)}
    for width, expected in (
        (1, 1 - 2 / math.pi),
        (2, 0.1175),
        (3, 0.03454),
        (4, 0.009497),
    ):  # Max 1960, Table I
        read = Eden(width).decode(Eden(width).encode(like, 5), like, 5)["w"]
        assert 1 - cosine(like["w"], read) ** 2 == pytest.approx(expected, rel=0.03)
        assert len(Eden(width).encode(like, 5)) == 4 + width * 2**16 // 8


def test_drive_s_unbiased_scale() -> None:
    """⟨x, x̂⟩ = ‖x‖² exactly, which makes it unbiased over rotations; the other scale has a smaller error."""
    like = {"w": np.abs(gaussian(4096)) ** 3}
    codecs = {"unbiased": Eden(1, "unbiased"), "least": Eden(1, "least")}
    read = {name: codec.decode(codec.encode(like, 2), like, 2)["w"] for name, codec in codecs.items()}
    assert float(like["w"] @ read["unbiased"]) == pytest.approx(float(like["w"] @ like["w"]), rel=1e-4)
    errors = {scale: float(np.linalg.norm(each - like["w"])) for scale, each in read.items()}
    assert errors["least"] < errors["unbiased"]


def test_eden_below_one_bit_keeps_a_share_of_the_energy() -> None:
    """A share p of the values, one bit each: cosine² = p · 2/π."""
    like = {"w": gaussian(2**16)}
    payload = Eden(0.25).encode(like, 9)
    assert len(payload) == 4 + 2**16 // 4 // 8
    read = Eden(0.25).decode(payload, like, 9)["w"]
    assert cosine(like["w"], read) ** 2 == pytest.approx(0.5 / math.pi, rel=0.05)


def test_top_k_sends_the_largest() -> None:
    sent = {"a": np.array([0.1, -4, 3, 0, 1, 2, 0, 0, 0, 0], np.float32), "b": np.array([9, 0.5], np.float32)}
    codec = TopK(0.2)  # 2 of 10, and at least one of 2
    read = codec.decode(codec.encode(sent, 0), sent, 0)
    assert read["a"].tolist() == [0, -4, 3, 0, 0, 0, 0, 0, 0, 0]
    assert read["b"].tolist() == [9, 0]
    assert len(codec.encode(sent, 0)) == 3 * 8
    assert sparse.count_of(0.001, 10) == 1


def test_powersgd_gives_back_a_matrix_of_its_rank() -> None:
    left, right = gaussian(30 * 3).reshape(30, 3), gaussian(40 * 3, 2).reshape(40, 3)
    sent = {"w": (left @ right.T).reshape(30, 4, 10), "b": gaussian(5, 3)}
    for steps in (1, 2):
        codec = PowerSgd(3, steps)
        payload = codec.encode(sent, 1)
        assert len(payload) == 4 * (3 * (30 + 40) + 5)
        read = codec.decode(payload, sent, 1)
        np.testing.assert_allclose(read["w"], sent["w"], atol=1e-4)
        np.testing.assert_array_equal(read["b"], sent["b"])


def test_a_warm_second_step_is_nearer() -> None:
    sent = {"w": gaussian(60 * 50).reshape(60, 50)}
    errors = [
        float(np.linalg.norm(PowerSgd(4, steps).decode(PowerSgd(4, steps).encode(sent, 1), sent, 1)["w"] - sent["w"]))
        for steps in (1, 2, 50)
    ]  # fmt: skip
    best = math.sqrt(
        float(np.square(np.linalg.svd(sent["w"], compute_uv=False)[4:]).sum())
    )  # Eckart & Young 1936
    assert errors[0] > errors[1] > errors[2] >= best * (1 - 1e-6)
    assert errors[2] == pytest.approx(best, rel=0.01)


EVERY: list[Method] = [
    Qsgd(1), Qsgd(37), Qsgd(3, 16), Qsgd(7, 100, "max", "fixed"), Qsgd(7, 100, "max"), FedPaq(10), FedPaq(1, True),
    Eden(0.3), Eden(1, "unbiased"), Eden(5), TopK(0.05), TopK(0.1, "gaps", "<f2", True), PowerSgd(2),
    PowerSgd(8, 1, "<f2"),
]  # fmt: skip


@pytest.mark.parametrize("codec", EVERY, ids=repr)
def test_every_method_keeps_names_and_shapes(codec: Method) -> None:
    for sent in (update(), {"w": np.zeros((4, 5), np.float32)}):
        payload = codec.encode(sent, 11)
        assert payload == codec.encode(sent, 11)
        read = codec.decode(payload, sent, 11)
        assert [(name, value.shape) for name, value in read.items()] == [
            (name, value.shape) for name, value in sent.items()
        ]
        assert all(value.dtype == np.float32 for value in read.values())
        if flat(sent).any():
            assert cosine(flat(sent), flat(read)) > 0.1
        else:
            assert not flat(read).any()
    sent = update()
    np.testing.assert_array_equal(flat(shaped(flat(sent), sent)), flat(sent))


def point(method: str, size: int, cosine: float, kinder: bool = False) -> Point:
    return Point(method, f"{size}", kinder, size, 1000 / size, cosine, 0.0, 1.0, 1.0)


OURS = [
    point("fedlite", 10, 0.5),
    point("fedlite", 40, 0.9),
    point("fedlite", 20, 0.4),
    point("fedlite", 160, 0.9),
]


def test_the_front_is_a_monotone_envelope() -> None:
    assert [each.bytes for each in front(OURS)] == [10, 40]  # 20 is worse than 10, 160 no better than 40
    assert cosine_at(front(OURS), 20) == pytest.approx(0.7)  # half of the way from 10 to 40 in log(bytes)
    assert cosine_at(front(OURS), 9) is None
    assert cosine_at(front(OURS), 41) is None


def test_margins() -> None:
    theirs = [point("A", 20, 0.6), point("B", 20, 0.8), point("C", 5, 0.2), point("D", 200, 0.8), point("E", 200, 0.95),
              point("F", 260, 0.1), point("G", 3, 0.1)]  # fmt: skip
    found = {each.point.method: each for each in margins(OURS, theirs)}
    assert set(found) == set("ABCDE")  # F is 3.8×, G 333×: not compared
    assert found["A"].margin == pytest.approx(0.1)
    assert found["A"].real == pytest.approx(-0.1)  # our point of 10 bytes alone
    assert {name: each.reached for name, each in found.items()} == {
        "A": True, "B": False, "C": False, "D": True, "E": False,
    }  # fmt: skip


def test_a_client_has_its_share_of_samples() -> None:
    labels = np.repeat(np.arange(10), 1000)
    chosen = updates.client_samples(labels, 1, "a", updates.Setting())
    assert chosen.size == np.unique(chosen).size == 200
    assert np.bincount(labels[chosen], minlength=10).max() > 40  # Dirichlet(0.3) is uneven
    assert not np.array_equal(chosen, updates.client_samples(labels, 1, "b", updates.Setting()))


def test_report_prints_the_file_and_the_plot_stands_alone(tmp_path: Path) -> None:
    row = {"method": "QSGD", "setting": "s = 1 & more", "kinder": True, "bytes": 100.0, "ratio": 40.0, "cosine": 0.5,
           "error": 1.0, "encode_mb_s": 3.0, "decode_mb_s": 4.0, "reached": False, "margin_least": -0.25}  # fmt: skip
    mine = row | {"method": "fedlite", "kinder": False, "front": True}
    model = {"compared": 1, "missed": 1, "worst": {"margin": -0.25}, "points": [row, mine]}
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"dominates": False, "points": 1, "models": {"cnn": model}}))
    done = subprocess.run([sys.executable, SCRIPT, "--report", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    assert any("QSGD" in line and "ABOVE OURS" in line for line in table)
    assert json.loads(last)["models"]["cnn"] == {
        key: value for key, value in model.items() if key != "points"
    }
    root = ElementTree.fromstring(chart.svg({"models": {"cnn": model}}))
    assert "QSGD: s = 1 & more" in " ".join(root.itertext())
