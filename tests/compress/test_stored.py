import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.compress import entropy, positions, stored, stored_header
from fedlite.compress.cluster import Shared, share
from fedlite.errors import CodecError, SettingsError

SPEC = '{"name": "linear", "options": {}}'


def a_model(seed: int = 0, density: float = 0.1) -> stored.Stored:
    random = np.random.default_rng(seed)
    shapes = {
        "conv.weight": (6, 3, 5, 5),
        "conv.bias": (6,),
        "dense.weight": (20, 96),
        "scale": (),
        "none": (0, 3),
    }
    params = {name: np.asarray(random.standard_normal(shape), np.float32) for name, shape in shapes.items()}
    masks = {name: random.random(value.shape) < density for name, value in params.items() if value.ndim > 1}
    return stored.Stored(SPEC, share(params, masks, dict.fromkeys(shapes, 8)))


def same(left: stored.Stored, right: stored.Stored) -> bool:
    pairs = [(left.params()[name], right.params()[name]) for name in left.tensors]
    return list(left.tensors) == list(right.tensors) and all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("density", [0.0, 0.1, 0.9, 1.0])
def test_a_file_holds_the_model_to_the_bit(tmp_path: Path, density: float) -> None:
    model = a_model(density=density)
    path = tmp_path / "model.fedlite"
    assert stored.save(path, model) == path.stat().st_size
    spec, params = stored.load(path)
    assert json.loads(spec) == json.loads(SPEC)
    for name, value in model.params().items():
        assert params[name].dtype == np.float32
        assert np.array_equal(params[name], value)
    assert same(stored.read(path), model)
    assert [each.name for each in tmp_path.iterdir()] == ["model.fedlite"]


def test_codebooks_that_float16_holds_take_two_bytes() -> None:
    tensor = Shared(
        np.ones((2, 2), np.bool_), np.array([0.5, 1], np.float32), np.array([0, 1, 1, 0], np.uint8)
    )
    other = tensor.with_codebook(np.array([0.1, 1], np.float32))
    sizes = [stored.costs(stored.Stored(SPEC, {"a": each}))["a"][2] for each in (tensor, other)]
    assert sizes == [4, 8]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 70), st.floats(0, 1), st.integers(0, 2**32))
def test_masks_round_trip(rows: int, columns: int, width: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < density
    writer = entropy.Writer(2)
    positions.code_mask(writer, rows, columns, width, mask)
    reader = entropy.Reader(writer.finish(), 2)
    assert np.array_equal(positions.code_mask(reader, rows, columns, width), mask)
    reader.close()


def test_a_mask_without_order_costs_its_entropy() -> None:
    mask = np.random.default_rng(0).random((200, 300)) < 0.05
    writer = entropy.Writer(1)
    positions.code_mask(writer, 200, 300, 300, mask)
    share = mask.mean()
    bound = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * mask.size
    assert bound * 0.99 < writer.cost_bits < bound * 1.04


def test_a_mask_with_dead_rows_columns_and_blobs_costs_much_less() -> None:
    random = np.random.default_rng(0)
    mask = random.random((200, 300)) < 0.1
    mask[random.random(200) < 0.7] = False
    mask[:, random.random(300) < 0.3] = False
    share = mask.mean()
    writer = entropy.Writer(1)
    positions.code_mask(writer, 200, 300, 300, mask)
    bound = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * mask.size
    assert writer.cost_bits < 0.85 * bound


def test_stretch_and_squash_are_the_logit_and_its_inverse() -> None:
    share = np.linspace(0.001, 0.999, 999)
    assert np.allclose(positions.stretch(share), np.log(share / (1 - share)), atol=2e-3)
    odds = np.linspace(-11, 11, 999)
    assert np.allclose(positions.squash(odds), 1 / (1 + np.exp(-odds)), rtol=1e-3)


def test_costs_add_up_to_the_file() -> None:
    model = a_model(density=0.3)
    bytes_of = stored.costs(model)
    total = sum(sum(each) for each in bytes_of.values())
    payload = stored.dumps(model)
    header = 6 + struct.unpack_from("<H", payload, 4)[0] + 4
    assert total + header <= len(payload) <= total + header + 8


def test_truncated_extended_and_altered_files(tmp_path: Path) -> None:
    payload = stored.dumps(a_model())
    path = tmp_path / "model.fedlite"
    for size in range(len(payload)):
        with pytest.raises(CodecError):
            stored.loads(payload[:size])
    for place in range(len(payload)):
        altered = bytearray(payload)
        altered[place] ^= 0x10
        with pytest.raises(CodecError):
            stored.loads(bytes(altered))
    path.write_bytes(payload + b"\0")
    with pytest.raises(CodecError, match=r"model\.fedlite: the file is damaged.*copy or make the file again"):
        stored.load(path)
    with pytest.raises(SettingsError, match="cannot read"):
        stored.load(tmp_path / "none.fedlite")


def test_altered_files_with_a_right_check_value() -> None:
    """What the CRC does not find is refused or is other weights: no other error, no hang, no memory."""
    model = a_model()
    payload, random = stored.dumps(model)[:-4], np.random.default_rng(0)
    for place in range(0, len(payload), 12):
        altered = bytearray(payload)
        altered[place] ^= 1 << random.integers(8)
        try:
            found = stored.loads(signed(bytes(altered)))
        except CodecError:
            continue
        assert sum(each.mask.size for each in found.tensors.values()) <= stored.LIMIT


def signed(payload: bytes) -> bytes:
    return payload + struct.pack("<I", zlib.crc32(payload))


def with_header(header: object) -> bytes:
    packed = stored_header.deflated(json.dumps(header).encode())
    return signed(b"FLC1" + struct.pack("<H", len(packed)) + packed + bytes([1]) * 4096)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([["a", [1 << 14, 1 << 14], "e", 2, -1]], "claims 268435456 weights; at most 67108864"),
        ([["a", [1, 1 << 26], "e", 2, 2]], "coded in a way that none is written in"),
        ([["a", [4, 4], "e", 2, 0]], "coded in a way that none is written in"),
        ([["a", [4, 4], "d", 2, -1]], "has no tensor"),
        ([["a", [4, -4], "e", 2, -1]], "has no tensor"),
        ([["a", [4, 4], "e", 257, -1]], "has no tensor"),
        ([["a", [4, 4], "e", 2, -2]], "has no tensor"),
        ([["a", [4, True], "e", 2, -1]], "has no tensor"),
        ([["a", [4], "e", 2, -1], ["a", [4], "e", 2, -1]], "two tensors of the file have one name"),
        ([["a", [4], "e", 0, -1]], "4 live weights and no centroid"),
        (
            [["w", [3, 1], "e", 1, -1], ["a", [2**32 - 1, 0], "e", 0, -1]],
            "claims 4294967298 weights; at most",
        ),
        ([["w", [3, 1], "e", 1, -1], ["a", [1 << 25, 0], "e", 0, 2]], "a way that none is written in"),
        ([["a", [2**32 - 1] * 7 + [0], "e", 0, -1]], r"claims \d{68} weights"),
        ([["a", [30000, 1], "e", 0, 2]], "more rows or columns than FLC1 has"),
        ([[str(i), [50, 4000], "e", 1, 8000] for i in range(33)], "in 265683 steps; at most 262144"),
        ([["a", [4]]], "header is damaged"),
        (7, "header is damaged"),
    ],
)
def test_headers_that_none_writes(tensors: object, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        stored.loads(with_header({"model": {}, "tensors": tensors}))


def test_zero_dimensions_take_no_memory() -> None:
    """What is refused is refused before arrays as long as a dimension are made."""
    for shape in ([2**32 - 1, 0], [0, 1 << 31], [2**32 - 1] * 7 + [0], [1 << 25, 0]):
        for way in (-1, 2, 3):
            payload = with_header(
                {"model": {}, "tensors": [["w", [3, 1], "e", 1, -1], ["a", shape, "e", 0, way]]}
            )
            tracemalloc.start()
            with pytest.raises(CodecError):
                stored.loads(payload, limit=1 << 20)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
            tracemalloc.stop()


V1 = bytes.fromhex(
    "464c4331370043b2106a724e665e2a283520198eae2911e141131d3388078c750c8d40de4b84f9cc04ea6b1d4b90705e7e1e90130d8c71"
    "88b001c4bf0000bc003800400034158cfe900505d12d3e2083ba"
)


def test_a_file_of_the_first_version_is_read_and_written() -> None:
    """Bytes from before there was a second one."""
    weight = [[0] * 6, [-1, 0, 0.5, 2, 0, -1], [0] * 6, [0.5, 2, -1, 0, 0, 0]]
    found = stored.loads(V1)
    assert found.params()["a.weight"].tolist() == weight
    assert found.params()["a.bias"].tolist() == [0, 0.25, 0, 0.25]
    assert found.params()["none"].shape == (0, 3)
    assert stored.dumps(found) == V1


@pytest.mark.parametrize("shape", [(20_000,), (9000, 3), (3, 9000), (100_000, 1)])
def test_masks_of_many_rows_are_of_the_second_version(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.1
    book, indices = np.ones(1, np.float32), np.zeros(np.count_nonzero(mask), np.uint8)
    model = stored.Stored(
        SPEC, {"a.weight": Shared(mask, book, indices), "b.bias": Shared(mask, book, indices)}
    )
    payload = stored.dumps(model)
    assert payload[:4] == b"FLC2"
    assert same(stored.loads(payload), model)
    with pytest.raises(CodecError, match="more rows or columns than FLC1 has"):
        stored.loads(signed(b"FLC1" + payload[4:-4]))


def test_flags_in_blocks_follow_their_hint() -> None:
    """20,000 rows of which every seventh lives, as the layer before says: a few bytes."""
    live = np.arange(20_000) % 7 == 0
    costs = []
    for hint in (None, live):
        writer = entropy.Writer(1)
        positions.code_flags(writer, len(live), 1, live, hint)
        reader = entropy.Reader(writer.finish(), 1)
        assert np.array_equal(positions.code_flags(reader, len(live), 1, None, hint), live)
        costs.append(writer.cost_bits)
    assert costs[0] > 0.59 * len(live)  # the entropy of 1/7
    assert costs[1] < 200


def test_more_steps_than_are_read_are_not_written() -> None:
    entries = [
        stored_header.Entry(str(i), (50, 50), "e", 1, 100) for i in range(stored_header.STEPS // 151 + 1)
    ]
    with pytest.raises(SettingsError, match="steps to code; at most 262144 are read"):
        stored_header.pack(SPEC, entries)


def test_a_header_that_inflates_without_end() -> None:
    packed = zlib.compress(b" " * (1 << 23), 9, -15)
    with pytest.raises(CodecError, match="header"):
        stored.loads(signed(b"FLC1" + struct.pack("<H", len(packed)) + packed))


def test_the_limit_is_the_readers() -> None:
    with pytest.raises(CodecError, match="at most 100 are read"):
        stored.loads(stored.dumps(a_model()), limit=100)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.fedlite"
    stored.save(path, a_model())
    before = path.read_bytes()
    bad = Shared(np.ones(3, np.bool_), np.zeros(1, np.float32), np.array([0, 1, 0], np.uint8))
    with pytest.raises(SettingsError, match="1 centroids"):
        stored.save(path, stored.Stored(SPEC, {"a": bad}))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
