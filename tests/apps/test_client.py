"""What a device answers, remembers and owes, offer by offer."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from fedlite.apps.client import answer
from fedlite.apps.device import Device, Fixed, Held, Limits, Ram, Stored
from fedlite.apps.model import choose, initial, open_test
from fedlite.apps.offer import Manifest, Offer, read_answer, read_offer, write_offer
from fedlite.apps.settings import JobSettings
from fedlite.compress.presets import codec_by_name
from fedlite.data.spec import open_data
from fedlite.downlink import NOTHING_HELD, WHOLE_WANTED, Version, advance, snapshot
from fedlite.errors import CodecError, FrameError, ReplayError, SettingsError
from fedlite.ledger.shelf import Shelf
from fedlite.types import Params, is_statistic
from fedlite.uplink import Clear, unpack

SETTINGS = JobSettings(model="2nn", epochs=1)
SPEC = choose(SETTINGS, open_test(SETTINGS))
PARAMS = initial(SPEC, 8, 0)
DIGITS = open_data("digits").take(np.arange(60))
START = Version(0, PARAMS)
INT8 = codec_by_name("int8")


@dataclass
class Server:
    """Makes offers of one model, round after round, and reads reports."""

    version: Version = START
    run: str = "00" * 16
    codec: str = "int8"

    def offer(
        self, round_num: int, counted: int = -1, payload: bytes | None = None, **train: object
    ) -> Offer:
        manifest = Manifest(
            run=self.run,
            round_num=round_num,
            version=self.version.number,
            model_hash=self.version.hash.hex(),
            model=SPEC,
            train={**SETTINGS.train_settings(), **train},
            uplink_codec=self.codec,
            downlink_codec="int8",
            seed=0,
        )
        return Offer(manifest, b"", snapshot(self.version) if payload is None else payload, counted)

    def update(self, envelope: bytes | int) -> Params:
        assert isinstance(envelope, bytes)
        return INT8.decode(unpack(envelope[8:], max_examples=1000).payload, PARAMS, masks=self.version.masks)


def device(**changes: object) -> Device:
    made = Device("me", Fixed(DIGITS.x, DIGITS.y), Ram(), Clear(), lambda text, signature: None)
    return replace(made, **changes)  # type: ignore[arg-type]


def norm(update: Params, *, statistics: bool = False) -> float:
    return float(
        sum((u.astype(float) ** 2).sum() for n, u in update.items() if is_statistic(n) == statistics) ** 0.5
    )


def test_the_same_offer_gets_the_same_bytes() -> None:
    server, me = Server(), device()
    first = read_answer(answer(me, server.offer(1)))
    assert read_answer(answer(me, server.offer(1))) == first
    assert read_answer(answer(me, server.offer(1, payload=b"anything"))) == first


@pytest.mark.parametrize("odd", [-1, True, 1.5, "5", 2**63, None])
def test_an_offer_whose_budget_is_none_is_refused(odd: Any) -> None:
    offer = Server().offer(1)
    with pytest.raises(FrameError, match="wrong type"):
        read_offer(write_offer(replace(offer, manifest=replace(offer.manifest, uplink_budget=odd))))


def test_a_budget_that_is_too_small_leaves_everything_as_it_was() -> None:
    """The smallest that works is named, works, and what was owed before is in it; the device's own wins."""
    server, me = Server(codec="small"), device()
    answer(me, server.offer(1))
    before = me.memory.load()
    second = server.offer(2, counted=1)
    narrow = replace(second, manifest=replace(second.manifest, uplink_budget=10))
    with pytest.raises(SettingsError, match=r"10 bytes is too small .* smallest that works is") as refused:
        answer(me, narrow)
    assert me.memory.load() is before
    smallest = int(str(refused.value).split("smallest that works is ")[1].split()[0])
    enough = replace(second, manifest=replace(second.manifest, uplink_budget=smallest))
    other = replace(me, memory=Ram(before))
    envelope = read_answer(answer(other, enough))
    assert isinstance(envelope, bytes)
    assert len(envelope) <= smallest
    own = read_answer(answer(replace(me, uplink_budget=smallest + 30), narrow))
    assert isinstance(own, bytes)
    assert unpack(own[8:], max_examples=1000).metrics["uplink_budget"] == smallest + 30
    wide = read_answer(answer(other, server.offer(2, counted=1)))  # run again, without one
    fresh = read_answer(answer(replace(me, memory=Ram(before)), second))
    assert isinstance(wide, bytes)
    assert isinstance(fresh, bytes)
    assert wide[8:] == fresh[8:]  # behind the sequence number


def test_a_counted_report_leaves_only_the_codecs_loss() -> None:
    server, me = Server(), device()
    sizes = [
        norm(server.update(read_answer(answer(me, server.offer(r, counted=r - 1))))) for r in range(1, 7)
    ]
    assert max(sizes) < 1.3 * min(sizes)
    pending = me.memory.load().pending
    assert pending is not None
    assert norm(pending.if_counted) < 0.05 * sizes[-1]


def test_of_lost_reports_only_the_last_is_owed() -> None:
    """Never counted: the second report carries two updates, and so do all later ones."""
    server, me = Server(), device()
    sizes = [norm(server.update(read_answer(answer(me, server.offer(r))))) for r in range(1, 8)]
    assert 1.5 * sizes[0] < sizes[1] < 2.2 * sizes[0]
    assert max(sizes[2:]) < 2.2 * sizes[0]


def test_what_the_codec_lost_grows_old_while_reports_are_lost() -> None:
    """Counted in round 1 and never again: what its codec lost is carried to round 4, as for any other client."""
    server, me = Server(codec="sparse"), device()
    for round_num in range(1, 9):
        answer(me, server.offer(round_num, counted=1))
        pending = me.memory.load().pending
        assert pending is not None
        assert (norm(pending.before) > 0) == (1 < round_num <= 4)


def test_statistics_are_never_owed() -> None:
    server, me, never = Server(), device(), device()
    for round_num in (1, 2, 3):
        late = server.update(read_answer(answer(me, server.offer(round_num))))
        fresh = server.update(read_answer(answer(replace(never, memory=Ram()), server.offer(round_num))))
        for name in late:
            if is_statistic(name):
                np.testing.assert_array_equal(late[name], fresh[name])


def test_a_round_run_again_with_other_settings_is_not_sent_twice() -> None:
    server, me = Server(), device()
    first = norm(server.update(read_answer(answer(me, server.offer(1)))))
    again = norm(server.update(read_answer(answer(me, server.offer(1, learning_rate=0.09)))))
    assert again < 1.2 * first


def test_a_new_run_begins_anew() -> None:
    server, me = Server(), device()
    answer(me, server.offer(5))
    other = replace(server, run="11" * 16)
    fresh = read_answer(answer(device(), other.offer(1)))
    assert read_answer(answer(me, other.offer(1)))[8:] == fresh[8:]  # type: ignore[index]


def test_an_offer_of_a_round_left_behind_is_refused() -> None:
    server, me = Server(), device()
    answer(me, server.offer(5))
    with pytest.raises(ReplayError):
        answer(me, server.offer(4))


def test_a_payload_that_leads_elsewhere_is_answered_with_what_is_held() -> None:
    server, me = Server(), device()
    step, later = advance(server.version, {n: v + 1 for n, v in PARAMS.items()}, {}, INT8)
    ahead = Server(later)
    assert read_answer(answer(me, ahead.offer(2, payload=step))) == NOTHING_HELD
    answer(me, server.offer(1))
    assert read_answer(answer(me, ahead.offer(2, payload=b"not a payload"))) == 0
    assert read_answer(answer(me, ahead.offer(2, payload=b""))) == WHOLE_WANTED, "right number, wrong bytes"
    assert isinstance(read_answer(answer(me, ahead.offer(2, payload=step))), bytes)
    held = me.memory.load().version
    assert held is not None
    assert held.hash == later.hash


@pytest.mark.parametrize("codec", ["int8", "threshold:1:0.5+step:1+ans", "lowrank:2+int4+bits"])
def test_memory_on_disk_is_memory(tmp_path: object, codec: str) -> None:
    """Residuals, lost reports, and what filters remember."""
    server = Server(codec=codec)
    with Shelf(tmp_path / "memory.db") as shelf:  # type: ignore[operator]
        on_disk, in_ram = device(memory=Stored(shelf)), device()
        for round_num, counted in ((1, -1), (2, 1), (3, 1), (4, 3)):
            offer = server.offer(round_num, counted)
            assert read_answer(answer(on_disk, offer)) == read_answer(answer(in_ram, offer))
        saved, kept = Stored(shelf).load(), in_ram.memory.load()
    assert (saved.run, saved.round_num, saved.seq) == (kept.run, kept.round_num, kept.seq)
    assert saved.pending is not None
    assert kept.pending is not None
    assert saved.pending.envelope == kept.pending.envelope
    assert saved.pending.before_round == kept.pending.before_round == 3
    for found, want in (
        (saved.pending.if_counted, kept.pending.if_counted),
        (saved.pending.if_lost, kept.pending.if_lost),
    ):
        assert list(found) == list(want)
        assert any(name.startswith("~") for name in found) == (codec != "int8")
    assert Held() == Ram().load()


@pytest.mark.parametrize(
    ("limits", "train"),
    [(Limits(max_epochs=3), {"epochs": 4}), (Limits(max_parameters=1000), {}), (Limits(), {"epochs": 10**9})],
)
def test_work_beyond_a_device_is_refused(limits: Limits, train: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="this device"):
        answer(device(limits=limits), Server().offer(1, **train))


@pytest.mark.parametrize(
    "fields",
    [
        {"run": "xyz"},
        {"model_hash": "00"},
        {"round_num": -1},
        {"round_num": 1.0},
        {"seed": "0"},
        {"train": {"bits": "x"}},
        {"train": {"bits": 1e999}},
        {"train": {"learning_rate": -1}},
        {"train": {"backdoor": 1}},
        {"train": []},
        {"model": 3},
    ],
)
def test_a_manifest_that_is_none_is_refused_before_anything_is_done(fields: dict[str, object]) -> None:
    offer = Server().offer(1)
    bad = replace(offer, manifest=replace(offer.manifest, **fields))  # type: ignore[arg-type]
    with pytest.raises(FrameError):
        read_offer(write_offer(bad))


def test_an_absurd_model_takes_no_memory() -> None:
    spec = SPEC.replace('"num_classes": 10', '"num_classes": 1000000')
    assert spec != SPEC
    offer = Server().offer(1, payload=b"")
    with pytest.raises((SettingsError, CodecError)):
        answer(device(), replace(offer, manifest=replace(offer.manifest, model=spec)))
