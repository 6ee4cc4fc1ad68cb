import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite import flower
from fedlite.errors import FrameError
from fedlite.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from fedlite.link.packing import MAX_HEADER_BYTES, pack, unpack
from tests.link.world import echo

CONFIG = {
    "int": 3,
    "float": 3.0,
    "bool": True,
    "text": "größe 😀 \u2028",
    "bytes": b"\x00\xff",
    "ints": [1, 2],
    "floats": [1.0, -0.0],
    "bools": [False, True],
    "texts": ["", "a"],
    "many bytes": [b"", b"x"],
    "nothing": [],
    "large": 2**63 - 1,
}
METRICS = {"loss": 0.1, "steps": 7, "all": [1e300, float("inf")], "neither": math.nan}


def message(content: RecordDict) -> Message:
    flower.as_task(2**64 - 1)
    made = Message(content, dst_node_id=2**63 + 1, message_type="train.step", group_id="4", ttl=60.5)
    return flower.readdress(made, run_id=5, message_id="00" * 16, src_node_id=1)


def everything() -> Message:
    arrays = ArrayRecord([np.arange(6, dtype=np.float32).reshape(2, 3), np.array(2.5), np.zeros((0, 3))])
    ours = ArrayRecord({"z": Array("int8", (3,), "fedlite.v1", b"abc"), "a": Array("x", (), "other", b"")})
    content = {"b": arrays, "a": ours, "config": ConfigRecord(dict(CONFIG)), "m": MetricRecord(dict(METRICS))}
    return message(RecordDict(content))


def same(got: Message, want: Message) -> None:
    assert got.metadata == want.metadata
    assert list(got.content) == list(want.content)
    for name, record in want.content.items():
        assert type(got.content[name]) is type(record)
        assert list(got.content[name]) == list(record)
        for key, value in record.items():
            other = got.content[name][key]
            assert type(other) is type(value)
            assert repr(other) == repr(value)  # tells 1 from 1.0 and from True, and nan from nan not


def test_what_flower_can_say_survives_exactly() -> None:
    sent = everything()
    packed = pack(sent)
    same(unpack(packed.header, packed.blobs), sent)


def test_errors_survive() -> None:
    sent = flower.error_reply(everything().metadata, 2, "out of memory")
    packed = pack(sent)
    got = unpack(packed.header, packed.blobs)
    assert got.error == Error(2, "out of memory")
    assert not got.has_content()
    assert got.metadata == sent.metadata


def test_blobs_are_the_callers_objects() -> None:
    data = bytes(10_000)
    packed = pack(message(RecordDict({"a": ArrayRecord({"w": Array("int8", (1,), "fedlite.v1", data)})})))
    assert packed.blobs[0] is data
    got = unpack(packed.header, packed.blobs)
    assert got.content["a"]["w"].data is data


def test_a_reply_names_its_message() -> None:
    packed = pack(echo(everything()))
    assert unpack(packed.header, packed.blobs).metadata.reply_to_message_id == "00" * 16


scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8")),
    st.binary(),
    st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), scalars))
def test_any_config_survives(config: dict[str, int | float | str | bytes | bool]) -> None:
    sent = message(RecordDict({"c": ConfigRecord(dict(config))}))
    packed = pack(sent)
    same(unpack(packed.header, packed.blobs), sent)


def altered(change: str, to: str) -> bytes:
    header = pack(everything()).header
    assert change.encode() in header
    return header.replace(change.encode(), to.encode(), 1)


@pytest.mark.parametrize(
    ("change", "to"),
    [
        ('{"metadata"', '{"extra":1,"metadata"'),
        ('"records"', '"record"'),
        ('"records":', '"error":[1,null],"records":'),
        ('"arrays"', '"pickles"'),
        ("[2,3]", "[2,-3]"),
        ("[2,3]", "[2,3.0]"),
        ("[2,3]", "[3,3]"),
        ('"float32"', '"float64"'),
        ('"numpy.ndarray"', "7"),
        ('["int","value",3]', '["int","value",null]'),
        ('["int","value",3]', '["int","value",{"a":1}]'),
        ('["int","value",3]', '["int","value",[1,"a"]]'),
        ('["int","value",3]', '["int","value",36893488147419103232]'),
        ('["int","value",3]', '["float","value",3]'),
        ('["int","value",3]', '["int","value",3,4]'),
        ('["int","value",3]', '["int","bytes"]'),
        ('["int","value",3]', '["int","list",-1]'),
        ('["int","value",3]', '["int","other",3]'),
        ('["int","value",3]', '["int","value","\\ud800"]'),
        ('["int","value",3]', '["int","value",3 ]'),
        ('["float","value",3.0]', '["float","value",3.00]'),
        ('["steps","value",7]', '["steps","value",true]'),
        ('["steps","value",7]', '["steps","value","7"]'),
        ('["bytes","bytes"]', '["bytes","value",1]'),
        ('"train.step"', '"rm -rf"'),
        ("60.5", "NaN"),
        ("60.5", '"60"'),
        ('"metadata":[5,', '"metadata":[-5,'),
        ('"metadata":[5,', '"metadata":[true,'),
        ('"metadata":[5,', '"metadata":[5,5,'),
        ('["a","arrays"', '["b","arrays"'),
    ],
)
def test_altered_headers_are_refused(change: str, to: str) -> None:
    with pytest.raises(FrameError):
        unpack(altered(change, to), pack(everything()).blobs)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"metadata":[]}',
        b'{"metadata":{}}',
        b"9" * 5000,
    ],
)
def test_other_bytes_are_refused(header: bytes) -> None:
    with pytest.raises(FrameError):
        unpack(header, ())


def test_blobs_missing_or_left_over_are_refused() -> None:
    packed = pack(everything())
    for blobs in (packed.blobs[:-1], (*packed.blobs, b"")):
        with pytest.raises(FrameError):
            unpack(packed.header, blobs)


def test_a_header_that_is_too_large_is_neither_sent_nor_taken() -> None:
    with pytest.raises(FrameError, match="header of"):
        pack(message(RecordDict({"m": MetricRecord({"all": [1] * MAX_HEADER_BYTES})})))
    with pytest.raises(FrameError, match="header of"):
        unpack(b" " * (MAX_HEADER_BYTES + 1), ())


def test_an_integer_that_other_nodes_cannot_hold_is_not_sent() -> None:
    with pytest.raises(FrameError, match="64 bits"):
        pack(message(RecordDict({"m": MetricRecord({"n": 2**64})})))


def npy(shape: str, descr: str = "'<f4'", data: bytes = bytes(16)) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


@pytest.mark.parametrize(
    "data",
    [
        npy("(4,)", data=bytes(15)),
        npy("(4,)", data=bytes(17)),
        npy("(1099511627776,)"),
        npy("(4, 1099511627776, 0)"),
        npy("(2, 2)"),
        npy("(4,)", "'<i4'"),
        npy("(4,)", "'|O'"),
        npy("(4,)", "[('a', '<f4')]"),
        npy("(" * 100),
        npy("(4,)").replace(b"\x93NUMPY\x01", b"\x93NUMPY\x02"),
        b"",
        b"\x80\x04\x95.",
    ],
)
def test_array_data_that_claim_something_else_are_refused(data: bytes) -> None:
    """np.load would allocate 4 TiB for the third one."""
    array = Array("float32", (4,), "numpy.ndarray", data)
    packed = pack(message(RecordDict({"a": ArrayRecord({"w": array})})))
    with pytest.raises(FrameError):
        unpack(packed.header, packed.blobs)


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int8", "uint8", "int64", "bool", "complex64"]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_every_numeric_array_passes(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    for each in (array, np.asfortranarray(array)):
        packed = pack(message(RecordDict({"a": ArrayRecord([each])})))
        got = unpack(packed.header, packed.blobs).content["a"]["0"].numpy()
        assert got.dtype == each.dtype
        np.testing.assert_array_equal(got, each)


def test_mutations_are_refused_with_a_typed_error_or_mean_something_else() -> None:
    """20 000 headers with bytes changed, moved, or removed: never another exception than FrameError."""
    rng, packed = random.Random(7), pack(everything())
    tokens = [b"null", b"-1", b"1e999", b"[", b"]", b"{}", b'"', b",", b"true", b"NaN", b"0.5", b"\\u0000"]
    refused = 0
    for _ in range(20_000):
        header = bytearray(packed.header)
        at = rng.randrange(len(header))
        match rng.randrange(4):
            case 0:
                header[at] = rng.randrange(256)
            case 1:
                del header[at : at + rng.randrange(1, 12)]
            case 2:
                header[at : at + rng.randrange(6)] = rng.choice(tokens)
            case 3:
                source = rng.randrange(len(header))
                header[at:at] = header[source : source + 20]
        try:
            got = unpack(bytes(header), packed.blobs)
        except FrameError:
            refused += 1
        else:
            assert pack(got).header == bytes(header)
    assert refused > 15_000


def test_a_packed_header_is_plain_json() -> None:
    assert set(json.loads(pack(everything()).header)) == {"metadata", "records"}
