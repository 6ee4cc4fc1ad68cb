"""What a hostile or unlucky client can send: it is named and dropped, and the round is the honest clients' own."""

import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from fedlite.apps.client import client_app
from fedlite.apps.cohort import Party
from fedlite.apps.device import Device, Fixed, Ram
from fedlite.apps.job import Workshop, make_job, unsigned, unverified
from fedlite.apps.offer import read_offer, write_holds, write_report
from fedlite.apps.server import run
from fedlite.apps.settings import JobSettings
from fedlite.compress.codec import Codec
from fedlite.compress.float32 import Float32
from fedlite.compress.layout import Layout
from fedlite.compress.presets import codec_by_name
from fedlite.crypto.identity import Identity
from fedlite.crypto.seal import Context as SealContext
from fedlite.errors import QuorumError
from fedlite.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from fedlite.ledger.store import Ledger
from fedlite.rounds import Model
from fedlite.uplink import Clear, Receiver, Report, Sealed, Sender, Unsealer, pack
from fedlite.virtual.grid import VirtualGrid
from tests.integration.federation import Notes, shares

App = Callable[[Message, Context], Message]

JOB = JobSettings(
    rounds=2, quorum=2, bits=32, model="linear", sparsity=0.5, prune_round=1, evaluate_every=0, epochs=1,
    batch_size=32, deadline_seconds=60,
)  # fmt: skip
PLAIN = replace(JOB, uplink_codec="float32", downlink_codec="float32", sparsity=0.0)
BAD = "4"  # VirtualGrid's first node is 2: the third client


def client(index: int, sender: Sender, *, samples: int | None = None) -> App:
    """The client of share `index`, with as many of its samples."""
    share = shares(4)[index]
    source = Fixed(share.x[:samples], share.y[:samples])
    device = Device(f"client-{index}", source, Ram(), sender, unverified)
    return client_app(lambda context: device)


def federate(
    path: Path,
    apps: list[App],
    settings: JobSettings = JOB,
    *,
    receiver: Receiver | None = None,
    who: Callable[[int], Party] = lambda node: Party(str(node), str(node)),
    grid_type: type[VirtualGrid] = VirtualGrid,
    patient: bool = False,
) -> tuple[Model, Notes]:
    """A run in process, whatever the clients are."""
    path.mkdir(exist_ok=True)
    notes = Notes()
    job = make_job(Workshop(settings), receiver or Clear(), unsigned, who, patient=patient)

    def app(message: Message, context: Context) -> Message:
        return apps[int(context.node_config["partition-id"])](message, context)

    with (
        Ledger.open(path / "ledger.db", settings.identity()) as ledger,
        grid_type(app, len(apps)) as grid,  # type: ignore[arg-type]
    ):
        return run(grid, job, ledger, notes, Event()), notes


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[JobSettings], Model]:
    """The model that clients 0 and 1 make alone."""
    known: dict[JobSettings, Model] = {}

    def of(settings: JobSettings) -> Model:
        if settings not in known:
            apps = [client(0, Clear()), client(1, Clear())]
            known[settings], _ = federate(tmp_path_factory.mktemp("honest"), apps, settings)
        return known[settings]

    return of


def assert_same(got: Model, want: Model) -> None:
    """Bit for bit."""
    assert got.held.hash == want.held.hash
    for name, value in want.params.items():
        assert np.array_equal(got.params[name], value), name


@dataclass(frozen=True)
class Forger:
    """Sends something else than the device made: `forge` gets the report's update payload."""

    forge: Callable[[bytes], bytes]

    def send(self, body: bytes, context: SealContext, seq: int) -> bytes:
        metric_bytes = struct.unpack_from(">4sIH", body)[2]
        return Clear().send(self.forge(body[10 + metric_bytes :]), context, seq)


class NotANumber(Float32):
    """A codec that does not look at what it writes."""

    def __init__(self, value: float) -> None:
        object.__setattr__(self, "value", value)

    def dump(
        self,
        weights: np.ndarray,
        statistics: np.ndarray,
        layout: Layout,
        generator: np.random.Generator | None,
    ) -> bytes:
        weights[3] = self.value  # type: ignore[attr-defined]
        return super().dump(weights, statistics, layout, generator)


LINEAR = {"output.weight": (10, 64), "output.bias": (10,)}


def update(shapes: Mapping[str, tuple[int, ...]] = LINEAR) -> dict[str, np.ndarray]:
    return {name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}


def coded(codec: Codec, shapes: Mapping[str, tuple[int, ...]] = LINEAR) -> bytes:
    return pack(Report(9, {"loss": 1.0}, codec.encode(update(shapes))))


def head(examples: int, metrics: bytes, payload: bytes) -> bytes:
    return (
        pack(Report(1, {}, b""))[:4]
        + struct.pack(">IH", examples & 0xFFFFFFFF, len(metrics))
        + metrics
        + payload
    )


INT8, FLOAT32 = codec_by_name("int8"), codec_by_name("float32")
FORGERIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no examples": (lambda p: head(0, b"{}", p), "example count is 0, 1 to 100000 believed"),
    "minus one examples": (lambda p: head(-1, b"{}", p), "example count is 4294967295"),
    "too many examples": (lambda p: head(100_001, b"{}", p), "example count is 100001"),
    "NaN as a metric": (lambda p: head(9, b'{"loss":NaN}', p), "not a finite number"),
    "metrics without an end": (lambda p: head(9, b"[" * 4000, p), "not JSON"),
    "a metric with 4000 digits": (lambda p: head(9, b'{"loss":' + b"9" * 4000 + b"}", p), "finite"),
    "a metric that names our own": (lambda p: head(9, b'{"num-examples":1}', p), "lower case"),
    "nothing": (lambda p: b"", "report holds 0 bytes"),
    "noise": (lambda p: os.urandom(300), "does not begin as one"),
    "half a payload": (lambda p: head(9, b"{}", p[: len(p) // 2]), "payload"),
    "one bit": (lambda p: head(9, b"{}", p[:-9] + bytes([p[-9] ^ 1]) + p[-8:]), "payload is damaged"),
    "bytes left over": (lambda p: head(9, b"{}", p + b"\0"), "payload"),
    "more than any update": (lambda p: head(9, b"{}", p + bytes(100_000)), "report holds"),
    "a transposed shape": (lambda p: coded(INT8, {"output.weight": (64, 10), "output.bias": (10,)}), "payload is for"),
    "another name": (lambda p: coded(INT8, {"output.weight_": (10, 64), "output.bias": (10,)}), "payload is for"),
    "another model": (lambda p: coded(INT8, {"conv.weight": (4, 1, 3, 3)}), "payload is for"),
    "a tensor too few": (lambda p: coded(INT8, {"output.weight": (10, 64)}), "payload is for"),
    "another codec": (lambda p: coded(FLOAT32), "written by codec"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_report_is_dropped_and_named(
    tmp_path: Path, honest: Callable[[JobSettings], Model], name: str
) -> None:
    forge, reason = FORGERIES[name]
    apps = [client(0, Clear()), client(1, Clear()), client(2, Forger(forge))]
    model, notes = federate(tmp_path, apps)
    assert_same(model, honest(JOB))
    assert [list(row["dropped"]) for row in notes.rows] == [[BAD], [BAD]]
    assert reason in notes.rows[0]["dropped"][BAD]
    assert [row["num_clients"] for row in notes.rows] == [2, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -1.1e9])
def test_values_that_would_spoil_the_model(
    tmp_path: Path, honest: Callable[[JobSettings], Model], value: float
) -> None:
    codec = Codec(serializer=NotANumber(value))
    apps = [client(0, Clear()), client(1, Clear()), client(2, Forger(lambda p: coded(codec)))]
    model, notes = federate(tmp_path, apps, PLAIN)
    assert_same(model, honest(PLAIN))
    assert "NaN" in notes.rows[1]["dropped"][BAD]


def records(content: RecordDict) -> App:
    return lambda message, context: Message(content, reply_to=message)


def failing(problem: BaseException) -> App:
    def app(message: Message, context: Context) -> Message:
        raise problem

    return app


def array(stype: str, shape: tuple[int, ...]) -> ArrayRecord:
    return ArrayRecord({"report": Array("uint8", shape, stype, b"abc")})


def to_another(message: Message, context: Context) -> Message:
    other = Message(RecordDict(), dst_node_id=1, message_type=MessageType.TRAIN)
    return Message(write_report(b"x"), reply_to=other)


ANSWERS: dict[str, tuple[App, str]] = {
    "no records": (records(RecordDict()), "neither a report nor a status"),
    "other records": (records(RecordDict({"a": MetricRecord({"b": 1.0})})), "neither a report nor"),
    "a report that is a setting": (records(RecordDict({"arrays": ConfigRecord({"report": b"x"})})), "fedlite.v1"),
    "an array of NumPy": (records(RecordDict({"arrays": array("numpy.ndarray", (3,))})), "fedlite.v1"),
    "a shape that lies": (records(RecordDict({"arrays": array("fedlite.v1", (2**40,))})), "fedlite.v1"),
    "a version that is text": (records(RecordDict({"status": ConfigRecord({"holds": "1"})})), "neither"),
    "a version that never was": (records(write_holds(2**60)), f"from {2**60}"),
    "a version below all": (records(write_holds(-(2**60))), "cannot reach version 0"),
    "the server's offer": (lambda message, context: Message(message.content, reply_to=message), "neither"),
    "an app that raises": (failing(ZeroDivisionError("of my own")), "ZeroDivisionError"),
    "an app out of memory": (failing(MemoryError()), "MemoryError"),
    "nothing at all": (lambda message, context: None, "not a reply"),  # type: ignore[arg-type,return-value]
    "a reply to something else": (to_another, "not a reply"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none(tmp_path: Path, honest: Callable[[JobSettings], Model], name: str) -> None:
    app, reason = ANSWERS[name]
    model, notes = federate(tmp_path, [client(0, Clear()), client(1, Clear()), app])
    assert_same(model, honest(JOB))
    assert [list(row["dropped"]) for row in notes.rows] == [[BAD], [BAD]]
    assert reason in notes.rows[0]["dropped"][BAD]


def test_a_client_without_samples(tmp_path: Path, honest: Callable[[JobSettings], Model]) -> None:
    apps = [client(0, Clear()), client(1, Clear()), client(2, Clear(), samples=0)]
    model, notes = federate(tmp_path, apps)
    assert_same(model, honest(JOB))
    assert "this device has no samples yet" in notes.rows[0]["dropped"][BAD]


def test_labels_and_samples_that_do_not_fit_the_model(
    tmp_path: Path, honest: Callable[[JobSettings], Model]
) -> None:
    share = shares(4)[2]
    for x, y, reason in (
        (share.x, share.y + 1, "labels run from 1 to 10; the model has classes 0 to 9"),
        (share.x[:, :, :7], share.y, "the model takes no examples of shape (1, 7, 8)"),
    ):
        device = Device("odd", Fixed(x, y), Ram(), Clear(), unverified)
        apps = [client(0, Clear()), client(1, Clear()), client_app(lambda context, device=device: device)]
        model, notes = federate(tmp_path / reason[:5], apps)
        assert_same(model, honest(JOB))
        assert reason in notes.rows[1]["dropped"][BAD]


def test_a_client_that_diverges_is_dropped_and_owes_nothing(
    tmp_path: Path, honest: Callable[[JobSettings], Model]
) -> None:
    """Samples of 1e30 make the first step infinite; with good samples the same client is back the round after."""
    share = shares(4)[2]
    source = Changing([share.x * np.float32(1e30), share.x], share.y)
    memory = Ram()
    device = Device("client-2", source, memory, Clear(), unverified)  # type: ignore[arg-type]
    apps = [client(0, Clear()), client(1, Clear()), client_app(lambda context: device)]
    _, notes = federate(tmp_path, apps)
    assert "NaN" in notes.rows[0]["dropped"][BAD]
    assert notes.rows[1]["dropped"] == {}
    assert notes.rows[1]["num_clients"] == 3


@dataclass
class Changing:
    """Other samples every round."""

    rounds: list[np.ndarray]
    y: np.ndarray

    def draw(self, predict: object) -> object:
        return Fixed(self.rounds.pop(0), self.y).draw(lambda x: self.y)


def test_too_few_good_answers_end_an_impatient_run_with_the_reasons(tmp_path: Path) -> None:
    apps = [client(0, Clear()), failing(ZeroDivisionError("mine"))]
    with pytest.raises(QuorumError, match=r"1 of 2 clients answered, 2 wanted. 3: ZeroDivisionError: mine"):
        federate(tmp_path, apps)


def test_a_patient_server_runs_the_round_again_until_enough_answer(tmp_path: Path) -> None:
    """Nothing of the failed tries enters: the model is that of a run without them."""
    failures = iter([True, True])
    good = client(1, Clear())

    def moody(message: Message, context: Context) -> Message:
        if next(failures, False):
            raise ZeroDivisionError("of its own")
        return good(message, context)

    model, notes = federate(tmp_path / "moody", [client(0, Clear()), moody], patient=True)
    want, _ = federate(tmp_path / "steady", [client(0, Clear()), client(1, Clear())])
    assert_same(model, want)
    assert [row["num_clients"] for row in notes.rows] == [2, 2]
    assert sum("is run again: 1 of 2" in text for text in notes.texts) == 2


# ---- sealed: replays and strangers -----------------------------------------------------------------------------


@dataclass
class Stale:
    """Sends its first envelope for ever."""

    honest: Sealed
    first: bytes = b""

    def send(self, body: bytes, context: SealContext, seq: int) -> bytes:
        self.first = self.first or self.honest.send(body, context, seq)
        return self.first


@dataclass(frozen=True)
class Odd:
    """Seals correctly, but for something else."""

    honest: Sealed
    change: Callable[[SealContext], SealContext] = field(default=lambda context: context)
    seq: int | None = None

    def send(self, body: bytes, context: SealContext, seq: int) -> bytes:
        return self.honest.send(body, self.change(context), seq if self.seq is None else self.seq)


@pytest.fixture(scope="module")
def people() -> tuple[Identity, list[Identity]]:
    return Identity.generate(), [Identity.generate() for _ in range(3)]


def sealed(path: Path, people: tuple[Identity, list[Identity]], third: Sender | None) -> tuple[Model, Notes]:
    """A run of two honest devices and a third, over sealed reports."""
    server, devices = people
    keys = {each.public.key_id: each.public for each in devices}
    senders: list[Sender] = [Sealed(device, server.public) for device in devices[:2]]
    apps = [client(i, s) for i, s in enumerate([*senders, third] if third else senders)]

    def who(node: int) -> Party:
        return Party(devices[node - 2].public.client_id, f"device-{node - 2}")

    return federate(path, apps, receiver=Unsealer(server, keys.get), who=who)


def test_a_replayed_report_counts_once(tmp_path: Path, people: tuple[Identity, list[Identity]]) -> None:
    """Its first report is in round 1; sent again, it is refused for its round, and round 2 is without it."""
    server, devices = people
    honest_third = Sealed(devices[2], server.public)
    _, notes = sealed(tmp_path / "stale", people, Stale(honest_third))
    assert notes.rows[0]["dropped"] == {}
    assert "round_num 1, 2 expected" in notes.rows[1]["dropped"]["device-2"]
    assert notes.rows[1]["num_clients"] == 2


def test_reports_for_something_else_or_by_someone_else(
    tmp_path: Path, people: tuple[Identity, list[Identity]]
) -> None:
    server, devices = people
    mine = Sealed(devices[2], server.public)
    want, _ = sealed(tmp_path / "honest", people, None)
    cases: dict[str, tuple[Sender, str]] = {
        "round": (Odd(mine, lambda c: replace(c, round_num=c.round_num + 1)), "claims round_num"),
        "run": (Odd(mine, lambda c: replace(c, run_id=bytes(16))), "claims run_id"),
        "model": (Odd(mine, lambda c: replace(c, model_hash=bytes(32))), "claims model_hash"),
        "manifest": (Odd(mine, lambda c: replace(c, spec_hash=bytes(32))), "claims spec_hash"),
        "recipient": (Sealed(devices[2], devices[0].public), ""),
        "another device's": (Sealed(devices[0], server.public), ""),
        "a stranger's": (Sealed(Identity.generate(), server.public), ""),
        "in the clear": (Clear(), "envelope"),
    }
    said = set()
    for name, (sender, reason) in cases.items():
        model, notes = sealed(tmp_path / name, people, sender)
        assert_same(model, want)
        assert list(notes.rows[0]["dropped"]) == ["device-2"]
        text = notes.rows[0]["dropped"]["device-2"]
        assert reason in text, name
        said |= set() if reason else {text}
    assert len(said) == 1, "cryptographic failures read the same from outside"


def test_a_sequence_number_that_falls(tmp_path: Path, people: tuple[Identity, list[Identity]]) -> None:
    server, devices = people
    _, notes = sealed(tmp_path, people, Odd(Sealed(devices[2], server.public), seq=7))
    assert notes.rows[0]["dropped"] == {}
    assert "two different envelopes carry seq 7" in notes.rows[1]["dropped"]["device-2"]


# ---- silence and delay -----------------------------------------------------------------------------------------


class Withholding(VirtualGrid):
    """Replies of node 4 do not arrive in round 1; it has trained, and remembers what it sent."""

    withheld = ("1",)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        self.late = getattr(self, "late", set()) | {
            message_id
            for message_id, message in zip(ids, messages, strict=True)
            if message.metadata.dst_node_id == int(BAD) and message.metadata.group_id in self.withheld
        }
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return super().pull_messages([each for each in message_ids if each not in self.late])

    def withdraw(self, message_ids: Iterable[str]) -> None:
        self.late -= set(message_ids)
        super().withdraw(message_ids)


class Silent(Withholding):
    """Node 4 never answers."""

    withheld = ("1", "2")


def test_a_client_that_never_answers_costs_the_deadline_and_no_more(
    tmp_path: Path, honest: Callable[[JobSettings], Model]
) -> None:
    settings = replace(JOB, deadline_seconds=0.5)
    apps = [client(0, Clear()), client(1, Clear()), client(2, Clear())]
    model, notes = federate(tmp_path, apps, settings, grid_type=Silent)
    assert_same(model, honest(JOB))
    assert [row["dropped"] for row in notes.rows] == [{BAD: "did not answer in time"}] * 2


def test_with_too_few_at_the_deadline_the_round_does_not_count(tmp_path: Path) -> None:
    settings = replace(JOB, deadline_seconds=0.5, quorum=3)
    apps = [client(0, Clear()), client(1, Clear()), client(2, Clear())]
    with pytest.raises(QuorumError, match=r"2 of 3 clients answered, 3 wanted. 4: did not answer in time"):
        federate(tmp_path, apps, settings, grid_type=Silent)
    with Ledger.open(tmp_path / "ledger.db", settings.identity()) as ledger:
        latest = ledger.latest()
    assert latest is not None
    assert latest.round_num == 0


def test_with_over_selection_the_first_to_answer_count(
    tmp_path: Path, honest: Callable[[JobSettings], Model]
) -> None:
    """Two wanted, three asked, one silent: no waiting for it, and the model is the other two's."""
    settings = replace(JOB, cohort=2, over_selection=1.5)
    apps = [client(0, Clear()), client(1, Clear()), client(2, Clear())]
    model, notes = federate(tmp_path, apps, settings, grid_type=Silent)
    assert_same(model, honest(JOB))
    assert notes.rows[0]["dropped"] == {BAD: "was not among the first to answer"}


def test_an_update_that_came_too_late_arrives_with_the_next(tmp_path: Path) -> None:
    """Round 2 gets u1 + u2 from the late client, by hand: w2 = w1 + Σ n (own update + what is owed) / Σ n.

    Each client's own update is that of a client which was never late and holds the same model: it is read from
    what the client sent, decoded with the float32 codec.
    """
    sent: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    settings = replace(PLAIN, deadline_seconds=0.5)
    apps = [client(index, Watched(index, sent)) for index in range(3)]
    model, notes = federate(tmp_path / "late", apps, settings, grid_type=Withholding)
    assert [row["dropped"] for row in notes.rows] == [{BAD: "did not answer in time"}, {}]

    counts = [len(share) for share in shares(4)[:3]]
    w0 = Workshop(settings).initial()[1]
    w1 = stepped(w0, [(counts[i], sent[i, 1]) for i in (0, 1)])
    w2 = stepped(w1, [(counts[i], sent[i, 2]) for i in (0, 1, 2)])
    for name, value in w2.items():
        np.testing.assert_allclose(model.params[name], value, rtol=0, atol=1e-6)

    alone: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    fresh = client(2, Watched(2, alone))
    punctual = federate(
        tmp_path / "fresh", [client(0, Clear()), client(1, Clear()), second_round_only(fresh)], settings
    )
    assert punctual[1].rows[0]["dropped"].keys() == {BAD}
    for name, value in sent[2, 2].items():
        np.testing.assert_allclose(value, alone[2, 2][name] + sent[2, 1][name], rtol=0, atol=1e-6)


def second_round_only(app: App) -> App:
    def answer(message: Message, context: Context) -> Message:
        if read_offer(message.content).manifest.round_num == 1:
            raise ZeroDivisionError("not yet")
        return app(message, context)

    return answer


@dataclass(frozen=True)
class Watched:
    """Clear, and remembers each round's decoded update."""

    index: int
    sent: dict[tuple[int, int], dict[str, np.ndarray]]

    def send(self, body: bytes, context: SealContext, seq: int) -> bytes:
        metric_bytes = struct.unpack_from(">4sIH", body)[2]
        like = {name: np.zeros(shape, np.float32) for name, shape in LINEAR.items()}
        self.sent[self.index, context.round_num] = FLOAT32.decode(body[10 + metric_bytes :], like)
        return Clear().send(body, context, seq)


def stepped(
    params: Mapping[str, np.ndarray], updates: list[tuple[int, dict[str, np.ndarray]]]
) -> dict[str, np.ndarray]:
    total = sum(count for count, _ in updates)
    return {
        name: value + sum(count * each[name].astype(np.float64) for count, each in updates) / total
        for name, value in params.items()
    }


def test_a_device_whose_memory_was_lost_takes_part_again(
    tmp_path: Path, people: tuple[Identity, list[Identity]]
) -> None:
    """Its sequence numbers still rise, so its next report is not taken for a replay."""
    server, devices = people
    share, memory = shares(4)[2], Ram()
    sender = Sealed(devices[2], server.public)
    device = Device("client-2", Fixed(share.x, share.y), memory, sender, unverified)
    keys = {each.public.key_id: each.public for each in devices}

    def forgetful(message: Message, context: Context) -> Message:
        memory.held = Ram().held
        return client_app(lambda context: device)(message, context)

    senders = [Sealed(each, server.public) for each in devices[:2]]
    _, notes = federate(
        tmp_path,
        [client(0, senders[0]), client(1, senders[1]), forgetful],
        replace(JOB, rounds=4),
        receiver=Unsealer(server, keys.get),
        who=lambda node: Party(devices[node - 2].public.client_id, f"device-{node - 2}"),
    )
    assert [row["dropped"] for row in notes.rows] == [{}] * 4
    assert [row["num_clients"] for row in notes.rows] == [3] * 4
