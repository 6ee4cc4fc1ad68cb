"""Frames: what one gRPC message on the stream is. Each starts with the protocol version and its kind, one byte each.

    hello    b"fedlite\\n" ‖ id*            client's first: ids of the messages it still holds
    welcome  max_message_bytes u64         server's answer
    start    id ‖ header_bytes u32 ‖ blobs u32 ‖ blob_bytes u64 * blobs ‖ data
    chunk    data                          more of the message begun by start, until its sizes are filled
    drop     nothing                       the message begun will not be completed
    ack      id                            no answer to this message is needed any more

Big-endian; ids are 16 bytes. A message and its reply travel under the same id: the message's. The first two
bytes and hello's magic keep their places in every later version, so that two versions can name each other.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fedlite.errors import FrameError
from fedlite.link.packing import MAX_BLOBS, MAX_HEADER_BYTES, Packed

VERSION = 1
MAX_FRAME_BYTES = 4 * 1024 * 1024
DATA_BYTES = 256 * 1024  # data per frame: larger ones are no faster, and take more memory per peer
MAX_HELD = 65_536
ID_BYTES = 16

HELLO, WELCOME, START, CHUNK, DROP, ACK = range(1, 7)
_MAGIC = b"fedlite\n"
_SIZES = struct.Struct(">16sII")


@dataclass(frozen=True)
class Hello:
    """A client's first frame; `held` are hex ids it has received and not been acked for."""

    held: tuple[str, ...]


@dataclass(frozen=True)
class Welcome:
    """The server's first frame."""

    max_message_bytes: int


@dataclass(frozen=True)
class Start:
    """The beginning of a message; `sizes` are header and blob sizes in bytes, `data` the first of them."""

    message_id: str
    sizes: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True)
class Chunk:
    """More of the message begun."""

    data: memoryview


@dataclass(frozen=True)
class Drop:
    """The message begun will not be completed."""


@dataclass(frozen=True)
class Ack:
    """Nothing more about this message is needed."""

    message_id: str


Frame = Hello | Welcome | Start | Chunk | Drop | Ack


def hello(held: Iterable[str]) -> bytes:
    """A client's first frame."""
    return bytes((VERSION, HELLO)) + _MAGIC + b"".join(map(bytes.fromhex, held))


def welcome(max_message_bytes: int) -> bytes:
    """The server's first frame."""
    return bytes((VERSION, WELCOME)) + max_message_bytes.to_bytes(8, "big")


def drop() -> bytes:
    """Give up the message begun."""
    return bytes((VERSION, DROP))


def ack(message_id: str) -> bytes:
    """Nothing more about this message is needed."""
    return bytes((VERSION, ACK)) + bytes.fromhex(message_id)


def message(message_id: str, packed: Packed) -> Iterator[bytes]:
    """The start frame and the chunks of a message; each is made when asked for, so that one exists at a time."""
    parts = (packed.header, *packed.blobs)
    pieces: list[bytes | memoryview] = [
        bytes((VERSION, START)) + _SIZES.pack(bytes.fromhex(message_id), len(parts[0]), len(parts) - 1),
        struct.pack(f">{len(parts) - 1}Q", *map(len, packed.blobs)),
    ]
    room = DATA_BYTES
    for part in parts:
        left = memoryview(part)
        while left:
            pieces.append(left[:room])
            left, room = left[room:], room - len(pieces[-1])
            if not room:
                yield b"".join(pieces)
                pieces, room = [bytes((VERSION, CHUNK))], DATA_BYTES
    if room < DATA_BYTES:
        yield b"".join(pieces)


def version_problem(frame: bytes, *, peer: str, here: str) -> str | None:
    """Why the peer's first frame cannot be understood for its version, or None; names which side to update."""
    if len(frame) < 2 or frame[0] == VERSION:
        return None
    old = peer if frame[0] < VERSION else here
    return f"the {peer} speaks link version {frame[0]}, the {here} version {VERSION}: update the {old}"


def parse(frame: bytes) -> Frame:
    """What a frame says. Raises FrameError for any bytes that no function above writes."""
    if not 2 <= len(frame) <= MAX_FRAME_BYTES:
        raise FrameError(f"frame of {len(frame)} bytes, 2 to {MAX_FRAME_BYTES} expected")
    if frame[0] != VERSION:
        raise FrameError(f"frame of link version {frame[0]}, {VERSION} expected")
    kind, body = frame[1], memoryview(frame)[2:]
    if kind == CHUNK and len(body):
        return Chunk(body)
    if kind == START:
        return _parse_start(body)
    if kind == ACK and len(body) == ID_BYTES:
        return Ack(body.hex())
    if kind == HELLO and body[: len(_MAGIC)] == _MAGIC:
        return _parse_hello(body[len(_MAGIC) :])
    if kind == WELCOME and len(body) == 8:
        return Welcome(int.from_bytes(body, "big"))
    if kind == DROP and not len(body):
        return Drop()
    raise FrameError(f"frame of kind {kind} and {len(body)} bytes has no meaning")


def _parse_hello(ids: memoryview) -> Hello:
    if len(ids) % ID_BYTES or len(ids) > MAX_HELD * ID_BYTES:
        raise FrameError(f"hello names its messages in {len(ids)} bytes, a multiple of {ID_BYTES} expected")
    return Hello(tuple(ids[at : at + ID_BYTES].hex() for at in range(0, len(ids), ID_BYTES)))


def _parse_start(body: memoryview) -> Start:
    if len(body) < _SIZES.size:
        raise FrameError(f"start frame of {len(body)} bytes, at least {_SIZES.size} expected")
    message_id, header_bytes, blobs = _SIZES.unpack_from(body)
    if not 0 < header_bytes <= MAX_HEADER_BYTES or blobs > MAX_BLOBS:
        raise FrameError(
            f"message claims a header of {header_bytes} bytes and {blobs} blobs; "
            f"at most {MAX_HEADER_BYTES} and {MAX_BLOBS} are taken"
        )
    data_at = _SIZES.size + 8 * blobs
    if len(body) <= data_at:
        raise FrameError(f"start frame of {len(body)} bytes ends before its data at {data_at}")
    sizes = struct.unpack_from(f">{blobs}Q", body, _SIZES.size)
    return Start(message_id.hex(), (header_bytes, *sizes), body[data_at:])
