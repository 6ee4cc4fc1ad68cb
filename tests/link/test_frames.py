import random
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.errors import FrameError
from fedlite.link import frames
from fedlite.link.assembler import Assembler, Whole
from fedlite.link.packing import Packed

ID = "0123456789abcdef" * 2
MIB = 1024 * 1024


def assembled(raw: list[bytes], limit: int = 2**40) -> Whole | None:
    assembler, whole = Assembler(limit), None
    for each in raw:
        assert whole is None
        frame = frames.parse(each)
        assert isinstance(frame, frames.Start | frames.Chunk | frames.Drop)
        whole = assembler.feed(frame)
    return whole


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=50), st.lists(st.binary(max_size=50), max_size=8))
def test_small_messages_are_one_frame(header: bytes, blobs: list[bytes]) -> None:
    raw = list(frames.message(ID, Packed(header, tuple(blobs))))
    assert len(raw) == 1
    assert assembled(raw) == Whole(ID, header, tuple(blobs))


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 3 * MIB),
        (MIB, 0),
        (MIB, MIB),
        (MIB - 1, 1, 1),
        (5, 0, 2 * MIB - 5, 0),
        (4 * MIB, 7),
        (9, *[3] * 65_536),
    ],
)
def test_any_split_into_frames_comes_back(sizes: tuple[int, ...]) -> None:
    rng = random.Random(1)
    header, *blobs = (rng.randbytes(size) for size in sizes)
    raw = list(frames.message(ID, Packed(header, tuple(blobs))))
    assert max(map(len, raw)) <= frames.MAX_FRAME_BYTES
    assert assembled(raw) == Whole(ID, header, tuple(blobs))


def test_control_frames_come_back() -> None:
    assert frames.parse(frames.hello([ID, ID])) == frames.Hello((ID, ID))
    assert frames.parse(frames.welcome(2**40)) == frames.Welcome(2**40)
    assert frames.parse(frames.ack(ID)) == frames.Ack(ID)
    assert frames.parse(frames.drop()) == frames.Drop()


def test_bytes_on_the_wire_are_these() -> None:
    """Written out by hand from the table at the top of frames.py: the format does not move unnoticed."""
    assert frames.hello([ID]) == b"\x01\x01fedlite\n" + bytes.fromhex(ID)
    assert frames.welcome(258) == b"\x01\x02" + bytes([0, 0, 0, 0, 0, 0, 1, 2])
    [start] = frames.message(ID, Packed(b"{}", (b"abc", b"")))
    assert start == (
        b"\x01\x03" + bytes.fromhex(ID) + bytes([0, 0, 0, 2, 0, 0, 0, 2])
        + bytes([0, 0, 0, 0, 0, 0, 0, 3]) + bytes(8) + b"{}abc"
    )  # fmt: skip
    assert frames.drop() == b"\x01\x05"
    assert frames.ack(ID) == b"\x01\x06" + bytes.fromhex(ID)


def start(header_bytes: int, blobs: int, sizes: bytes, data: bytes) -> bytes:
    return b"\x01\x03" + bytes(16) + struct.pack(">II", header_bytes, blobs) + sizes + data


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x01",
        b"\x02\x05",
        b"\x01\x00",
        b"\x01\x07",
        b"\x01\x04",  # a chunk of nothing
        b"\x01\x05x",
        b"\x01\x06" + bytes(15),
        b"\x01\x06" + bytes(17),
        b"\x01\x02" + bytes(7),
        b"\x01\x01fedlite\r" + bytes(16),
        b"\x01\x01fedlite\n" + bytes(15),
        b"\x01\x01fedlite\n" + bytes(16 * 65_537),
        b"\x01\x03" + bytes(23),
        start(0, 0, b"", b"x"),
        start(4 * MIB + 1, 0, b"", b"x"),
        start(1, 0, b"", b""),
        start(1, 65_537, b"", b"x"),
        start(1, 2, bytes(8), b""),
        b"\x01\x04" + bytes(4 * MIB),
    ],
)
def test_bytes_that_no_encoder_writes_are_refused(raw: bytes) -> None:
    with pytest.raises(FrameError):
        frames.parse(raw)


def test_a_version_names_the_side_to_update() -> None:
    newer, older = b"\x02\x01fedlite\n", b"\x00\x01fedlite\n"
    assert frames.version_problem(frames.hello([]), peer="client", here="server") is None
    problem = frames.version_problem(newer, peer="client", here="server")
    assert problem == "the client speaks link version 2, the server version 1: update the server"
    problem = frames.version_problem(older, peer="client", here="server")
    assert problem == "the client speaks link version 0, the server version 1: update the client"


def test_memory_grows_with_what_arrived_not_with_what_was_claimed() -> None:
    """A claim of 2^40 bytes is refused over the limit, and takes no memory under it."""
    frame = frames.parse(start(10, 1, (2**40).to_bytes(8, "big"), b"x" * 1000))
    assert isinstance(frame, frames.Start)
    with pytest.raises(FrameError, match="1099511627786 bytes, at most 536870912"):
        Assembler(512 * MIB).feed(frame)
    tracemalloc.start()
    try:
        assembler = Assembler(2**50)
        assembler.feed(frame)
        for _ in range(16):
            assembler.feed(frames.Chunk(memoryview(bytes(64 * 1024))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 16 * 64 * 1024


def test_a_message_let_by_takes_no_memory() -> None:
    assembler = Assembler(2**50)
    raw = list(frames.message(ID, Packed(b"{}", (bytes(8 * MIB),))))
    first = frames.parse(raw[0])
    assert isinstance(first, frames.Start)
    tracemalloc.start()
    try:
        assert assembler.feed(first, keep=False) is None
        for each in raw[1:]:
            chunk = frames.parse(each)
            assert isinstance(chunk, frames.Chunk)
            assert assembler.feed(chunk) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024
    [small] = frames.message(ID, Packed(b"{}", ()))
    after = frames.parse(small)
    assert isinstance(after, frames.Start)
    assert assembler.feed(after) == Whole(ID, b"{}", ())


def test_frames_out_of_order_are_refused() -> None:
    raw = list(frames.message(ID, Packed(b"{}", (bytes(2 * MIB),))))
    with pytest.raises(FrameError, match="without a message"):
        assembled(raw[1:])
    with pytest.raises(FrameError, match="inside another"):
        assembled([raw[0], raw[0]])
    with pytest.raises(FrameError, match="more bytes"):
        assembled([*raw[:-1], raw[1]])
    with pytest.raises(FrameError, match="without a message"):
        assembled([frames.drop()])


def test_after_a_drop_the_next_message_begins() -> None:
    large = list(frames.message(ID, Packed(b"{}", (bytes(2 * MIB),))))
    small = list(frames.message(ID, Packed(b"[]", ())))
    assert assembled([large[0], frames.drop(), *small]) == Whole(ID, b"[]", ())


def test_mutated_frames_raise_typed_errors_only() -> None:
    rng = random.Random(3)
    seeds = [
        *frames.message(ID, Packed(b"x" * 40, (b"y" * 30, b"", b"z"))),
        frames.hello([ID]),
        frames.ack(ID),
        frames.welcome(9),
        frames.drop(),
    ]
    for _ in range(20_000):
        raw = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(raw) + 1)
            raw[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        try:
            frame = frames.parse(bytes(raw))
            if isinstance(frame, frames.Start):
                Assembler(MIB).feed(frame)
        except FrameError:
            pass
