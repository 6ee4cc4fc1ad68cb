"""One round's messages on any Grid: offers out, reports in, until enough have come or the deadline passes."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

from fedlite.apps.offer import NEVER_COUNTED, NOTHING_HELD, Manifest, Offer, read_answer, write_offer
from fedlite.compress.codec import Codec
from fedlite.crypto.seal import check_fresh
from fedlite.downlink import bundle, snapshot
from fedlite.errors import PeerError, QuorumError, ReplayError
from fedlite.flower import Grid, Message, MessageType
from fedlite.ledger.store import Counted, Ledger
from fedlite.rounds import Model
from fedlite.tensors import check_finite
from fedlite.types import Result
from fedlite.uplink import REPORT_OVERHEAD_BYTES, Receiver, unpack

_POLL_SECONDS = 0.05


class Stopped(Exception):
    """The program was asked to stop; the round is abandoned and will be taken up again."""


@dataclass(frozen=True)
class Party:
    """Who a node is: `client_id` names it in the protocol, `name` to people."""

    client_id: str
    name: str


@dataclass
class Tally:
    """What happened in a round, by client name."""

    clients: dict[str, dict[str, float]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    counted: list[Counted] = field(default_factory=list)


@dataclass
class Courier:
    """Sends a round's offers and opens what comes back. Knows which version each client holds."""

    grid: Grid
    ledger: Ledger
    receiver: Receiver
    sign: Callable[[bytes], bytes]
    who: Callable[[int], Party]
    codec: Codec
    max_examples: int
    stop: Event
    shut_out: Callable[[], Collection[int]]
    holds: dict[str, int] = field(default_factory=dict)

    def results(
        self,
        manifest: Manifest,
        model: Model,
        nodes: Sequence[int],
        wanted: int,
        quorum: int,
        deadline: float,
    ) -> tuple[Iterator[Result], Tally]:
        """(results as they come, what happened). The iterator ends after `wanted` results or when nobody is left
        to answer, revoked clients aside; it raises QuorumError at `deadline` (monotonic seconds) with fewer than
        `quorum`, and Stopped.
        """
        tally = Tally()
        return _Collection(self, manifest, model, tally).run(nodes, wanted, quorum, deadline), tally


@dataclass(frozen=True)
class _Arrived:
    party: Party
    result: Result
    counted: Counted
    seconds: float


@dataclass
class _Collection:
    courier: Courier
    manifest: Manifest
    model: Model
    tally: Tally
    waiting: dict[str, int] = field(default_factory=dict)  # message id → node
    payloads: dict[int, bytes] = field(default_factory=dict)  # version held → what leads from it to the model
    asked_again: set[int] = field(default_factory=set)
    since: dict[int, float] = field(default_factory=dict)

    def run(self, nodes: Sequence[int], wanted: int, quorum: int, deadline: float) -> Iterator[Result]:
        self.signature = self.courier.sign(self.manifest.text)
        for node in nodes:
            client_id = self.courier.who(node).client_id
            self.push(node, self.courier.holds.get(client_id, self.believed(client_id)))
        count = 0
        try:
            while self.waiting and count < wanted and time.monotonic() < deadline:
                if self.courier.stop.is_set():
                    self.waiting.clear()  # clients in this process are not run to the end of the round
                    raise Stopped
                self.forget_shut_out()
                for reply in self.pull(deadline):
                    arrived = self.accept(reply)
                    if arrived is not None and count < wanted:
                        count += 1
                        self.count(arrived)
                        yield arrived.result
        finally:
            self.withdraw(list(self.waiting), "did not answer in time")
        if count < quorum:
            dropped = "; ".join(f"{name}: {why}" for name, why in self.tally.dropped.items())
            raise QuorumError(f"{count} of {len(nodes)} clients answered, {quorum} wanted. {dropped}".strip())

    def believed(self, client_id: str) -> int:
        """The version a client held when it was last counted; a wrong guess costs one more exchange."""
        last = self.courier.ledger.last_counted(client_id)
        return last.round_num - 1 if last else -1

    def push(self, node: int, held: int) -> None:
        party = self.courier.who(node)
        last = self.courier.ledger.last_counted(party.client_id)
        counted = last.round_num if last else NEVER_COUNTED
        offer = Offer(self.manifest, self.signature, self.payload(held), counted)
        message = Message(
            content=write_offer(offer),
            dst_node_id=node,
            message_type=MessageType.TRAIN,
            group_id=str(self.manifest.round_num),
        )
        (message_id,) = self.courier.grid.push_messages([message])
        self.waiting[message_id] = node
        self.since.setdefault(node, time.monotonic())
        row = self.tally.clients.setdefault(party.name, {"bytes_down": 0, "bytes_up": 0})
        row["bytes_down"] += len(offer.model)

    def payload(self, held: int) -> bytes:
        """The steps from `held`, or the whole model if that is smaller or steps are gone; made once per version."""
        version = self.model.held
        held = held if 0 <= held <= version.number else NOTHING_HELD
        if held not in self.payloads:
            steps = self.courier.ledger.steps(held, version.number) if held != NOTHING_HELD else None
            whole = snapshot(version) if steps is None or len(steps) > 1 else None
            chain = bundle(steps) if steps is not None else None
            options = [data for data in (chain, whole) if data is not None]
            self.payloads[held] = min(options, key=len)
        return self.payloads[held]

    def forget_shut_out(self) -> None:
        """Wait no longer for clients that were revoked while they were at work."""
        gone = self.courier.shut_out()
        self.withdraw([each for each, node in self.waiting.items() if node in gone], "was revoked")

    def pull(self, deadline: float) -> list[Message]:
        left = max(0.0, min(deadline - time.monotonic(), 0.5))
        wait = getattr(self.courier.grid, "wait", None)
        replies = list(self.courier.grid.pull_messages(list(self.waiting)))
        if not replies:
            if wait is not None:
                wait(left)
            else:
                time.sleep(min(left, _POLL_SECONDS))
        return replies

    def accept(self, reply: Message) -> "_Arrived | None":
        """The result a reply carries, or None after naming what is wrong with it."""
        node = self.waiting.pop(reply.metadata.reply_to_message_id, None)
        if node is None:
            return None
        party = self.courier.who(node)
        try:
            if reply.has_error():
                self.tally.dropped[party.name] = str(reply.error.reason)[:300]
                return None
            answer = read_answer(reply.content)
            if isinstance(answer, int):
                self.ask_again(node, party, answer)
                return None
            return self.open(node, party, answer)
        except PeerError as error:
            self.tally.dropped[party.name] = str(error)
            return None

    def ask_again(self, node: int, party: Party, held: int) -> None:
        """Once per round: the guess of what this client holds was wrong."""
        if node in self.asked_again:
            self.tally.dropped[party.name] = f"cannot reach version {self.model.held.number} from {held}"
            return
        self.asked_again.add(node)
        self.push(node, held)

    def open(self, node: int, party: Party, envelope: bytes) -> "_Arrived":
        """Every check at the door. PeerError says which one failed."""
        courier, like = self.courier, self.model.held.params
        limit = courier.codec.limit_bytes(like, masks=self.model.held.masks) + REPORT_OVERHEAD_BYTES
        opened = courier.receiver.open(envelope, self.manifest.context, party.client_id, limit)
        last = courier.ledger.last_counted(party.client_id)
        if check_fresh((last.seq, last.digest) if last else None, opened) == "resend":
            raise ReplayError(f"this report was counted in round {last.round_num if last else 0}")
        report = unpack(opened.payload, max_examples=courier.max_examples)
        update = courier.codec.decode(report.payload, like, masks=self.model.held.masks)
        check_finite(update)
        result = Result(party.client_id, update, report.num_examples, report.metrics, len(envelope))
        counted = Counted(self.manifest.round_num, party.client_id, opened.seq, opened.digest)
        return _Arrived(party, result, counted, round(time.monotonic() - self.since[node], 3))

    def count(self, arrived: "_Arrived") -> None:
        """From here on the result is in the aggregate."""
        name, result = arrived.party.name, arrived.result
        self.tally.counted.append(arrived.counted)
        self.tally.dropped.pop(name, None)
        self.tally.clients[name] |= {
            "bytes_up": result.payload_bytes,
            "num_examples": result.num_examples,
            "seconds": arrived.seconds,
        }
        self.courier.holds[arrived.party.client_id] = self.model.held.number

    def withdraw(self, message_ids: list[str], why: str) -> None:
        """Forget what has not been answered; late replies are dropped by the grid."""
        for message_id in message_ids:
            self.tally.dropped.setdefault(self.courier.who(self.waiting.pop(message_id)).name, why)
        withdraw = getattr(self.courier.grid, "withdraw", None)
        if withdraw is not None and message_ids:
            withdraw(message_ids)


def manifest_of(model: Model, run_id: bytes, fields: Mapping[str, object]) -> Manifest:
    """The manifest of the round after `model`."""
    return Manifest(
        run=run_id.hex(),
        round_num=model.round_num + 1,
        version=model.held.number,
        model_hash=model.held.hash.hex(),
        **fields,  # type: ignore[arg-type]
    )
