"""A device that is revoked while it trains: the round does not wait for it, and it is told to stop."""

from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import pytest

from fedlite.apps.client import client_app
from fedlite.apps.device import Device, Drawn, Fixed, Predict, Ram, Source
from fedlite.apps.job import Workshop, make_job
from fedlite.apps.server import run
from fedlite.apps.settings import JobSettings
from fedlite.crypto.identity import sign_manifest, verify_manifest
from fedlite.errors import AccessError
from fedlite.flower import Context, RecordDict
from fedlite.ledger.store import Ledger
from fedlite.link.client import LinkClient
from fedlite.link.grid import LinkGrid
from fedlite.link.server import LinkServer
from fedlite.uplink import Sealed, Unsealer
from server.serve import Roster
from tests.integration.federation import Fleetlet, Notes, shares

SETTINGS = JobSettings(
    rounds=2, quorum=2, bits=32, model="linear", evaluate_every=0, epochs=1, deadline_seconds=10_000
)


class Busy:
    """Samples that take until `done` to collect."""

    def __init__(self, own: Fixed) -> None:
        self.own, self.asked, self.done = own, Event(), Event()

    def draw(self, predict: Predict) -> Drawn:
        self.asked.set()
        self.done.wait()
        return self.own.draw(predict)


class Running:
    """A device on the link, on a thread; `error` is what ended it."""

    def __init__(self, address: str, fleetlet: Fleetlet, name: str, source: Source) -> None:
        identity, credentials = fleetlet.enrol(name)
        public = fleetlet.identity.public
        device = Device(
            name,
            source,
            Ram(),
            Sealed(identity, public),
            lambda text, sign: verify_manifest(public, text, sign),
        )
        app, context = client_app(lambda context: device), Context(0, 1, {}, RecordDict(), {})
        self.stop, self.error = Event(), None
        self._client = LinkClient(address, credentials, lambda message: app(message, context), stop=self.stop)
        self.thread = Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._client.run()
        except AccessError as error:
            self.error = error

    def end(self) -> None:
        self.stop.set()
        self.thread.join()


@pytest.mark.timeout(120)
def test_a_round_goes_on_without_a_device_revoked_in_its_midst(tmp_path: Path) -> None:
    """The deadline is hours away: the round can only end because nobody waits for that device any more."""
    fleetlet, notes, data = Fleetlet(tmp_path), Notes(), [Fixed(each.x, each.y) for each in shares(3)]
    roster, busy = Roster(fleetlet.fleet), Busy(data[2])
    server = LinkServer("127.0.0.1:0", fleetlet.server_credentials(), roster.admit)
    address = server.start()
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open(tmp_path / "ledger.db", SETTINGS.identity()))
        stack.callback(server.stop)
        devices = [
            Running(address, fleetlet, f"device-{i}", source) for i, source in enumerate([*data[:2], busy])
        ]
        for device in devices:
            stack.callback(device.end)
        stack.callback(busy.done.set)
        while len(server.connected()) < 3:
            server.exchange.wait(0.1)
        job = make_job(
            Workshop(SETTINGS),
            Unsealer(fleetlet.identity, roster.identity),
            lambda text: sign_manifest(fleetlet.identity, text),
            roster.party,
            shut_out=roster.revoked,
        )
        operator = Thread(target=lambda: busy.asked.wait() and fleetlet.fleet.revoke("device-2"))
        operator.start()
        model = run(LinkGrid(server, 7), job, ledger, notes, Event())
        operator.join()
        devices[2].thread.join(60)
    assert model.round_num == 2
    assert [row["num_clients"] for row in notes.rows] == [2, 2]
    assert notes.rows[0]["dropped"] == {"device-2": "was revoked"}
    assert notes.rows[1]["dropped"] == {}
    assert "device-2" not in notes.rows[1]["clients"]
    assert "'device-2' was revoked" in str(devices[2].error)
