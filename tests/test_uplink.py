"""A report survives both ways up, and a bad one is refused at the door."""

import struct

import pytest

from fedlite.crypto.identity import Identity
from fedlite.crypto.seal import Context
from fedlite.errors import PeerError, UpdateError
from fedlite.uplink import Clear, Receiver, Report, Sealed, Sender, Unsealer, pack, unpack

DEVICE, SERVER, OTHER = Identity.generate(), Identity.generate(), Identity.generate()
KEYS = {identity.public.key_id: identity.public for identity in (DEVICE, OTHER)}
CONTEXT = Context(1, bytes(16), 3, 0, bytes(32), bytes(32))
REPORT = Report(7, {"loss": 0.25}, b"payload")
WAYS: dict[str, tuple[Sender, Receiver]] = {
    "sealed": (Sealed(DEVICE, SERVER.public), Unsealer(SERVER, KEYS.get)),
    "clear": (Clear(), Clear()),
}


@pytest.mark.parametrize("way", WAYS)
def test_round_trip(way: str) -> None:
    sender, receiver = WAYS[way]
    envelope = sender.send(pack(REPORT), CONTEXT, 5)
    opened = receiver.open(envelope, CONTEXT, DEVICE.public.client_id, 1000)
    assert unpack(opened.payload, max_examples=100) == REPORT
    assert opened.seq == 5


@pytest.mark.parametrize("way", WAYS)
def test_too_large_a_report_is_refused(way: str) -> None:
    sender, receiver = WAYS[way]
    with pytest.raises(PeerError):
        receiver.open(sender.send(bytes(1001), CONTEXT, 1), CONTEXT, DEVICE.public.client_id, 1000)


def test_another_device_cannot_answer_for_this_one() -> None:
    envelope = Sealed(OTHER, SERVER.public).send(pack(REPORT), CONTEXT, 1)
    with pytest.raises(PeerError):
        WAYS["sealed"][1].open(envelope, CONTEXT, DEVICE.public.client_id, 1000)


def report(examples: int, metrics: bytes) -> bytes:
    return struct.pack(">4sIH", b"FLR1", examples, len(metrics)) + metrics


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"FLR1",
        b"XXXX" + report(1, b"{}")[4:],
        report(0, b"{}"),
        report(101, b"{}"),
        report(1, b'{"a":NaN}'),
        report(1, b'{"a":1e999}'),
        report(1, b'{"a":true}'),
        report(1, b'{"a":"b"}'),
        report(1, b"[]"),
        report(1, b"{"),
        report(1, b"\xff"),
        report(1, b"[" * 4000),  # deeper than the parser goes
        report(1, b'{"a":' + b"9" * 4000 + b"}"),  # more than a float holds
        report(1, b'{"num-examples":1000000}'),
        report(1, b'{"\\ud800":1}'),
        struct.pack(">4sIH", b"FLR1", 1, 60_000),
        report(1, b'{"' + b"x" * 65 + b'":1}'),
    ],
)
def test_a_bad_report_is_refused(body: bytes) -> None:
    with pytest.raises(UpdateError):
        unpack(body, max_examples=100)
