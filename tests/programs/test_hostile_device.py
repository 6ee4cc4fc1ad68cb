"""A device that joined properly and then sends what it should not: the server names it and goes on, to the bit."""

import json
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedlite.apps.offer import STYPE, read_offer, write_holds, write_report
from fedlite.crypto.seal import Context as SealContext
from fedlite.flower import (
    APP_FAILED,
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
    error_reply,
)
from fedlite.uplink import Sealed
from tests.programs.devices import Peer, honest, on_the_link
from tests.programs.programs import serving

SCRIPT = "<script>alert(1)</script>[/bold]\x1b[2J"


@dataclass(frozen=True)
class Forger:
    """Seals as itself, for this round; what is sealed, `forge` decides."""

    honest: Sealed
    forge: Callable[[int, bytes], bytes]

    def send(self, body: bytes, context: SealContext, seq: int) -> bytes:
        return self.honest.send(self.forge(context.round_num, body), context, seq)


def report(examples: int, metrics: bytes) -> Callable[[bytes], bytes]:
    """A report that says this, with the honest update."""

    def forge(body: bytes) -> bytes:
        middle = 10 + struct.unpack_from(">4sIH", body)[2]
        return body[:4] + struct.pack(">IH", examples, len(metrics)) + metrics + body[middle:]

    return forge


REPORTS: list[tuple[Callable[[bytes], bytes], str]] = [
    (report(2**32 - 1, b"{}"), "example count is 4294967295"),
    (report(9, b"[" * 4000), "metrics are not JSON"),
    (report(9, b'{"loss":' + b"9" * 4000 + b"}"), "not a finite number"),
    (lambda body: body[:-9] + bytes([body[-9] ^ 1]) + body[-8:], "payload is damaged"),
    (lambda body: b"", "report holds 0 bytes"),
]
ANSWERS: list[tuple[Callable[[Message], Message], str]] = [
    (lambda message: Message(RecordDict(), reply_to=message), "neither a report nor a status"),
    (lambda message: Message(RecordDict({"m": MetricRecord({"round": 7})}), reply_to=message), "neither"),
    (lambda message: Message(RecordDict({"status": ConfigRecord({"holds": [1]})}), reply_to=message), "neither"),
    (lambda message: Message(write_holds(2**60), reply_to=message), "cannot reach version"),
    (lambda message: Message(write_report(os.urandom(3_000_000)), reply_to=message), "envelope"),
    (lambda message: Message(write_report(b""), reply_to=message), "envelope holds 0 bytes"),
    (
        lambda message: Message(
            RecordDict({"arrays": ArrayRecord({"report": Array("uint8", (2**40,), STYPE, b"x")})}),
            reply_to=message,
        ),
        STYPE,
    ),
    (lambda message: error_reply(message.metadata, APP_FAILED, SCRIPT * 1000), SCRIPT[:20]),
]  # fmt: skip


def hostile(home: Path) -> Peer:
    """Round by round another of the above, after one report that is in order and in the end comes again."""
    sent: list[bytes] = []

    def forge(round_num: int, body: bytes) -> bytes:
        return REPORTS[round_num - 2][0](body) if 2 <= round_num < 2 + len(REPORTS) else body

    own = honest(home, "three", 2, lambda each: Forger(Sealed(each.identity, each.server), forge))

    def handle(message: Message) -> Message:
        round_num = read_offer(message.content).manifest.round_num
        place = round_num - 2 - len(REPORTS)
        if 0 <= place < len(ANSWERS):
            return ANSWERS[place][0](message)
        reply = own.handle(message)
        if "arrays" in reply.content:
            sent.append(reply.content["arrays"]["report"].data)
        if place >= len(ANSWERS):
            return Message(write_report(sent[0]), reply_to=message)
        return reply

    return Peer(own.enrolment, handle)


def test_whatever_a_device_sends_the_server_goes_on(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    reasons = [reason for _, reason in [*REPORTS, *ANSWERS]] + ["envelope claims round_num 1"]
    rounds = 1 + len(reasons)
    caplog.set_level("INFO", "fedlite.link")
    with serving(home / "server", "--rounds", rounds) as server, on_the_link(home, hostile(home)):
        while "connected to the server" not in caplog.text:
            time.sleep(0.01)
        with on_the_link(home, honest(home, "one", 0), honest(home, "two", 1)):
            assert server.end().code == 0, server.text
    assert "Traceback" not in server.text
    results = home / "server" / "results"
    rows = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == list(range(1, rounds + 1))
    assert rows[0]["dropped"] == {}
    for row, reason in zip(rows[1:], reasons, strict=True):
        assert list(row["dropped"]) == ["three"]
        assert reason in row["dropped"]["three"]
        assert row["num_clients"] == 2
        assert len(row["dropped"]["three"]) < 1000
    assert "<script>alert" not in (results / "report.html").read_text()
