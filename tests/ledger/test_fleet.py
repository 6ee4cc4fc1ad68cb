"""The fleet: a join code works once, a revoked device stays out, other processes see every change."""

import hashlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fedlite.errors import AccessError, SettingsError
from fedlite.ledger.fleet import Device, Fleet

NOW, LATER = 1000.0, 2000.0


def device(name: str, key: str = "", certificate: str = "") -> Device:
    """A device whose keys follow from `key`, by default its name."""
    seed = hashlib.sha256((key or name).encode()).digest()
    proof = hashlib.sha256((certificate or key or name).encode()).digest()
    return Device(name, seed.hex()[:32], seed, seed[::-1], proof, "active", NOW)


@pytest.fixture
def fleet(tmp_path: Path) -> Any:
    with Fleet(tmp_path / "fleet.db") as opened:
        yield opened


def join(fleet: Fleet, name: str, key: str = "") -> Device:
    fleet.invite(name, name.encode(), LATER)
    return fleet.redeem(name.encode(), NOW, lambda invited: device(invited, key))


def test_an_invited_device_is_found_by_key_and_certificate(tmp_path: Path) -> None:
    with Fleet(tmp_path / "fleet.db") as fleet:
        joined = join(fleet, "kitchen")
        assert joined == device("kitchen")
    with Fleet(tmp_path / "fleet.db") as fleet:
        assert fleet.find(joined.key_id) == joined
        assert fleet.find_by_certificate(joined.certificate_sha256) == joined
        assert fleet.devices() == [joined]
        assert fleet.find("0" * 32) is None
        assert fleet.find_by_certificate(b"other") is None


def test_wrong_expired_and_used_codes_are_told_apart(fleet: Fleet) -> None:
    fleet.invite("pi", b"hash", LATER)
    with pytest.raises(AccessError, match="is wrong"):
        fleet.redeem(b"other", NOW, device)
    with pytest.raises(AccessError, match="'pi' has expired"):
        fleet.redeem(b"hash", LATER, device)
    assert fleet.redeem(b"hash", LATER - 1, device).name == "pi"
    with pytest.raises(AccessError, match="'pi' was used already"):
        fleet.redeem(b"hash", NOW, lambda name: device(name, "a thief"))
    assert [d.key_id for d in fleet.devices()] == [device("pi").key_id]
    with pytest.raises(AccessError, match="python -m server invite"):
        fleet.redeem(b"other", NOW, device)


def test_the_same_device_may_ask_again_and_gets_its_new_certificate(fleet: Fleet) -> None:
    """The first answer may have been lost on its way; the code is still spent for everyone else."""
    join(fleet, "pi")
    again = fleet.redeem(b"pi", NOW + 1, lambda name: device(name, certificate="second"))
    assert fleet.devices() == [again]
    assert fleet.find_by_certificate(device("pi").certificate_sha256) is None
    with pytest.raises(AccessError, match="expired"):
        fleet.redeem(b"pi", LATER, device)


def test_a_failure_to_make_the_device_leaves_the_code_good(fleet: Fleet) -> None:
    fleet.invite("pi", b"hash", LATER)
    version = fleet.version()

    def fails(name: str) -> Device:
        raise SettingsError(f"no certificate for {name}")

    with pytest.raises(SettingsError, match="no certificate for pi"):
        fleet.redeem(b"hash", NOW, fails)
    assert fleet.version() == version
    assert fleet.redeem(b"hash", NOW, device) == device("pi")


def test_a_new_invite_replaces_the_unused_one(fleet: Fleet) -> None:
    fleet.invite("pi", b"old", LATER)
    fleet.invite("pi", b"new", LATER)
    with pytest.raises(AccessError, match="was replaced"):
        fleet.redeem(b"old", NOW, device)
    assert fleet.redeem(b"new", NOW, device) == device("pi")


def test_the_name_of_an_active_device_is_taken_until_it_is_revoked(fleet: Fleet) -> None:
    join(fleet, "pi", "first key")
    with pytest.raises(SettingsError, match="'pi' has joined already"):
        fleet.invite("pi", b"hash", LATER)
    fleet.revoke("pi")
    join(fleet, "pi", "second key")
    assert [(d.name, d.status) for d in fleet.devices()] == [("pi", "revoked"), ("pi", "active")]
    assert fleet.find(device("pi", "first key").key_id).status == "revoked"
    assert fleet.revoke("pi").key_id == device("pi", "second key").key_id


def test_revoked_keys_cannot_join_again(fleet: Fleet) -> None:
    join(fleet, "pi")
    revoked = fleet.revoke("pi")
    assert revoked.status == "revoked"
    assert fleet.find(revoked.key_id) == revoked
    assert fleet.find_by_certificate(revoked.certificate_sha256) == revoked
    with pytest.raises(AccessError, match="revoked"):
        fleet.redeem(b"pi", NOW, device)
    fleet.invite("pi", b"new", LATER)
    with pytest.raises(AccessError, match="keys were revoked"):
        fleet.redeem(b"new", NOW, device)
    assert fleet.find(revoked.key_id).status == "revoked"
    assert fleet.revoke("pi") == revoked  # once more changes nothing


def test_one_device_has_one_name(fleet: Fleet) -> None:
    join(fleet, "pi", "key")
    fleet.invite("other", b"other", LATER)
    with pytest.raises(AccessError, match="joined already, as 'pi'"):
        fleet.redeem(b"other", NOW, lambda name: device(name, "key"))


def test_revoking_an_unknown_name_lists_the_known(fleet: Fleet) -> None:
    with pytest.raises(SettingsError, match="no device is named 'x'; active devices: none"):
        fleet.revoke("x")
    for name in ("b", "a", "gone"):
        join(fleet, name)
    fleet.revoke("gone")
    with pytest.raises(SettingsError, match="active devices: a, b"):
        fleet.revoke("x")


def test_the_version_rises_with_every_change_and_only_then(fleet: Fleet) -> None:
    seen = [fleet.version()]
    for change in (
        lambda: fleet.invite("pi", b"hash", LATER),
        lambda: fleet.redeem(b"hash", NOW, device),
        lambda: fleet.revoke("pi"),
    ):
        change()
        seen.append(fleet.version())
        assert fleet.version() == seen[-1]
    assert seen == sorted(set(seen))
    with pytest.raises(SettingsError):
        fleet.revoke("nobody")
    assert fleet.version() == seen[-1]


def test_two_at_once_cannot_spend_one_code(tmp_path: Path) -> None:
    """Eight threads, each with its own connection and its own keys: one device joins, seven are told."""
    outcomes: list[str] = []
    with Fleet(tmp_path / "fleet.db") as first:
        first.invite("pi", b"hash", LATER)
        barrier = threading.Barrier(8)

        def attempt(number: int) -> None:
            with Fleet(tmp_path / "fleet.db") as fleet:
                barrier.wait()
                try:
                    fleet.redeem(b"hash", NOW, lambda name: device(name, f"key {number}"))
                    outcomes.append("joined")
                except AccessError as error:
                    outcomes.append("used" if "used already" in str(error) else str(error))

        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["joined"] + ["used"] * 7
        assert len(first.devices()) == 1


OTHER_PROCESS = """
import sys
from pathlib import Path
from fedlite.ledger.fleet import Fleet
with Fleet(Path(sys.argv[1])) as fleet:
    for number in range(15):
        fleet.invite(f"{sys.argv[2]}-{number}", f"{sys.argv[2]}-{number}".encode(), 2000.0)
"""


def test_commands_in_other_processes_work_beside_the_server(tmp_path: Path) -> None:
    """Three processes open the new file at once and invite; the server redeems as the invitations appear."""
    path = tmp_path / "fleet.db"
    command = [sys.executable, "-c", OTHER_PROCESS, str(path)]
    others = [subprocess.Popen([*command, name], stderr=subprocess.PIPE) for name in "abc"]
    with Fleet(path) as fleet:
        waiting = {f"{name}-{number}" for name in "abc" for number in range(15)}
        seen = -1
        while waiting:
            if (version := fleet.version()) == seen:
                assert any(other.poll() is None for other in others) or fleet.version() != version
                continue
            seen = version
            for name in sorted(waiting):
                try:
                    fleet.redeem(name.encode(), NOW, device)
                    waiting.discard(name)
                except AccessError:
                    continue  # not invited yet
        assert [other.communicate()[1] for other in others] == [b""] * 3
        assert [other.returncode for other in others] == [0] * 3
        assert len(fleet.devices()) == 45
        assert fleet.version() == 90
