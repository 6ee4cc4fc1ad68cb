"""One round's messages on any Grid: offers out, reports in, until enough have come or the deadline passes."""

import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event
from typing import Any

from fedlite.apps.door import Door
from fedlite.apps.offer import NEVER_COUNTED, Manifest, Offer, read_answer, write_offer
from fedlite.apps.payloads import Payloads, Recent
from fedlite.budget import recorded
from fedlite.compress.presets import codec_by_name
from fedlite.downlink import NOTHING_HELD, WHOLE_WANTED
from fedlite.errors import PeerError, QuorumError
from fedlite.flower import Grid, Message, MessageType
from fedlite.ledger.store import Counted, Ledger
from fedlite.rounds import Model
from fedlite.types import Result

DEPARTED_SECONDS = 15.0  # how long a round that has its quorum waits for a client whose connection is gone
NAMED = 10  # clients of one reason that an error names
TOO_LATE = "was not among the first to answer"
_LOOK_SECONDS = 0.5  # between looks at who has departed, was revoked, or whether to stop
_POLL_SECONDS = 0.05  # on grids that cannot be waited on


class Stopped(Exception):
    """The program was asked to stop; the round is abandoned and will be taken up again."""


@dataclass(frozen=True)
class Party:
    """Who a node is: `client_id` names it in the protocol, `name` to people."""

    client_id: str
    name: str


@dataclass
class Tally:
    """What happened in a round, by client name; `counted` is what the ledger must remember of those who count.

    `more` are figures of the round as a whole, to stand in its row.
    """

    clients: dict[str, dict[str, float]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    counted: list[Counted] = field(default_factory=list)
    count: int = 0
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Courier:
    """Carries rounds over a grid. `holds` is the version each client was last known to hold."""

    grid: Grid
    ledger: Ledger
    door: Door
    sign: Callable[[bytes], bytes]
    who: Callable[[int], Party]
    shut_out: Callable[[], Collection[int]]
    stop: Event
    holds: dict[str, int] = field(default_factory=dict)
    recent: Recent = field(default_factory=Recent)


def check_quorum(tally: Tally, asked: int, quorum: int) -> None:
    """QuorumError, with every client's reason, unless enough count."""
    if tally.count >= quorum:
        return
    named = dict[str, list[str]]()
    for name, reason in tally.dropped.items():
        named.setdefault(reason, []).append(name)
    why = "; ".join(f"{_few(names)}: {reason}" for reason, names in named.items())
    raise QuorumError(
        f"{tally.count} of {asked} clients answered, {quorum} wanted. {why}".strip(),
        remedy="lower --learning-rate" if named and all("diverged" in reason for reason in named) else None,
    )


def _few(names: Sequence[str]) -> str:
    """All of them, or the first and how many more there are."""
    shown = ", ".join(sorted(names, key=lambda name: (len(name), name))[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def here_now(grid: Grid) -> Collection[int]:
    """The nodes that are there; a range stays one, for a simulated fleet may be a million."""
    ids = grid.get_node_ids()
    return ids if isinstance(ids, range) else set(ids)


@dataclass
class Exchange:
    """One round's messages with a cohort; `tally` fills as they come."""

    courier: Courier
    manifest: Manifest
    model: Model
    tally: Tally = field(default_factory=Tally)
    _waiting: dict[str, int] = field(default_factory=dict)  # message id → node
    _asked: dict[int, float] = field(default_factory=dict)  # node → when, in monotonic seconds
    _asked_again: set[tuple[int, bool]] = field(default_factory=set)  # node, whether for the whole model
    _departed: dict[int, float] = field(default_factory=dict)  # node → since when
    _looked: float = 0.0
    _last: dict[str, Counted | None] = field(default_factory=dict)

    def results(
        self, nodes: Sequence[int], wanted: int, quorum: int, deadline: float
    ) -> Generator[Result, None, None]:
        """Results as they come: `wanted` of them, or fewer when nobody is left to answer or at `deadline`.

        `deadline` is in monotonic seconds. Close the iterator when done with it: that withdraws what is still
        asked. Raises QuorumError in the end if there were fewer than `quorum`, and Stopped.
        """
        count = 0
        try:
            for node in nodes:
                self._push(node, self._believed(self.courier.who(node).client_id))
            while self._waiting and count < wanted and time.monotonic() < deadline:
                self._look_around(enough=count >= quorum)
                for reply in self._pull(deadline):
                    result = self._accept(reply, counting=count < wanted)
                    if result is not None:
                        count += 1
                        yield result
        finally:
            self._withdraw(list(self._waiting), TOO_LATE if count >= wanted else "did not answer in time")
        check_quorum(self.tally, len(nodes), quorum)
        self._weigh()

    def _weigh(self) -> None:
        """Note what went over the wire since these clients' last round, where the grid has one and counts."""
        weigh = getattr(self.courier.grid, "weigh", None)  # only ours over the link
        if weigh is None:
            return
        for node, wire in weigh(self._asked).items():
            name = self.courier.who(node).name
            self.tally.clients[name] |= {"wire_down": wire.sent, "wire_up": wire.received}
        rows = self.tally.clients.values()
        for key in ("wire_down", "wire_up"):
            if rows and all(key in row for row in rows):
                self.tally.more[key] = sum(row[key] for row in rows)

    def _believed(self, client_id: str) -> int:
        """The version a client holds, as far as is known; a wrong guess costs one more exchange."""
        last = self._last_counted(client_id)
        return self.courier.holds.get(client_id, last.round_num - 1 if last else NOTHING_HELD)

    def _last_counted(self, client_id: str) -> Counted | None:
        """What the ledger says; it does not change while a round is open."""
        if client_id not in self._last:
            self._last[client_id] = self.courier.ledger.last_counted(client_id)
        return self._last[client_id]

    def _push(self, node: int, held: int) -> None:
        party = self.courier.who(node)
        last = self._last_counted(party.client_id)
        counted = last.round_num if last else NEVER_COUNTED
        offer = Offer(self.manifest, self._signature, self._payloads.of(held), counted)
        message = Message(
            content=write_offer(offer),
            dst_node_id=node,
            message_type=MessageType.TRAIN,
            group_id=str(self.manifest.round_num),
        )
        (message_id,) = self.courier.grid.push_messages([message])
        self._waiting[message_id] = node
        self._asked.setdefault(node, time.monotonic())
        row = self.tally.clients.setdefault(party.name, {"bytes_down": 0, "bytes_up": 0})
        row["bytes_down"] += len(offer.model)

    @cached_property
    def _signature(self) -> bytes:
        return self.courier.sign(self.manifest.text)

    @cached_property
    def _payloads(self) -> Payloads:
        codec = codec_by_name(self.manifest.downlink_codec)
        return Payloads(self.courier.ledger, self.model.held, codec, self.courier.recent)

    def _look_around(self, *, enough: bool) -> None:
        """Wait no longer for the revoked, nor, with `enough` results, for those long gone. Raises Stopped."""
        if self.courier.stop.is_set():
            self._waiting.clear()  # clients in this process are not run to the end of the round
            raise Stopped
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        shut_out, here = self.courier.shut_out(), here_now(self.courier.grid)
        self._departed = {
            node: self._departed.get(node, now) for node in self._waiting.values() if node not in here
        }
        gone = {node for node, since in self._departed.items() if enough and now - since > DEPARTED_SECONDS}
        self._withdraw([each for each, node in self._waiting.items() if node in shut_out], "was revoked")
        self._withdraw([each for each, node in self._waiting.items() if node in gone], "has left")

    def _pull(self, deadline: float) -> list[Message]:
        replies = list(self.courier.grid.pull_messages(list(self._waiting)))
        if not replies and self._waiting:
            left = max(0.0, min(deadline - time.monotonic(), _LOOK_SECONDS))
            wait = getattr(self.courier.grid, "wait", None)  # ours can be waited on, Flower's own cannot
            if wait is not None:
                wait(left)
            else:
                time.sleep(min(left, _POLL_SECONDS))
        return replies

    def _accept(self, reply: Message, *, counting: bool) -> Result | None:
        """The result a reply carries, or None after naming what is wrong with it."""
        node = self._waiting.pop(reply.metadata.reply_to_message_id, None)
        if node is None:
            return None
        party = self.courier.who(node)
        try:
            if reply.has_error():
                self.tally.dropped[party.name] = str(reply.error.reason)[:300]
                return None
            answer = read_answer(reply.content)
            if isinstance(answer, int):
                self._ask_again(node, party, answer)
                return None
            result, counted = self.courier.door.open(
                self.manifest, self.model, party.client_id, answer, self._last_counted(party.client_id)
            )
        except PeerError as error:
            self.tally.dropped[party.name] = str(error)
            return None
        if not counting:
            self.tally.dropped[party.name] = TOO_LATE
            return None
        self._count(node, party, result, counted)
        return result

    def _ask_again(self, node: int, party: Party, held: int) -> None:
        """Once per round, and once more for the whole model: the guess of what this client holds was wrong."""
        again = (node, held == WHOLE_WANTED)
        if again in self._asked_again:
            self.tally.dropped[party.name] = f"cannot reach version {self.model.held.number} from {held}"
            return
        self._asked_again.add(again)
        self._push(node, held)

    def _count(self, node: int, party: Party, result: Result, counted: Counted) -> None:
        """From here on the result is in the aggregate."""
        self.tally.counted.append(counted)
        self.tally.count += 1
        self.tally.clients[party.name] |= {
            "bytes_up": result.payload_bytes,
            "num_examples": result.num_examples,
            "seconds": round(time.monotonic() - self._asked[node], 3),
            **recorded(result.metrics, self.manifest.uplink_budget),
        }
        self.courier.holds[party.client_id] = self.model.held.number

    def _withdraw(self, message_ids: list[str], why: str) -> None:
        """Forget what has not been answered; late replies are dropped by the grid."""
        for message_id in message_ids:
            self.tally.dropped.setdefault(self.courier.who(self._waiting.pop(message_id)).name, why)
        withdraw = getattr(self.courier.grid, "withdraw", None)  # Flower's own grids let messages expire
        if withdraw is not None and message_ids:
            withdraw(message_ids)
