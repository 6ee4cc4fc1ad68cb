"""Joining end to end over real sockets: good codes and bad ones, an impostor, wrong clocks, crashes."""

import json
import logging
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedlite.crypto import enrolment
from fedlite.crypto.certificates import (
    create_authority,
    fingerprint,
    make_device_key,
    renew_server_certificate,
)
from fedlite.crypto.files import write_private
from fedlite.crypto.identity import Identity, PublicIdentity
from fedlite.crypto.invite import make_code, parse_code, secret_hash
from fedlite.errors import (
    AccessError,
    LinkError,
    SettingsError,
    StateError,
    StorageError,
)
from fedlite.ledger.fleet import Device
from fedlite.link.enrol import join, load_enrolment
from tests.link.enrol.join_site import (
    FILES,
    LINK_ADDRESS,
    Site,
    frame,
    new_site,
    say,
    scripted,
)


def test_join(site: Site, tmp_path: Path) -> None:
    state_dir = tmp_path / "device"
    joined = join(site.invite(), state_dir)
    assert (joined.name, joined.link_address) == ("kitchen-pi", LINK_ADDRESS)
    assert joined.server == site.identity.public
    assert joined.ca_pem == site.authority.ca_pem
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in state_dir.iterdir()} == dict.fromkeys(
        FILES, 0o600
    )
    [device] = site.fleet.devices()
    assert (device.name, device.key_id, device.status) == (
        "kitchen-pi",
        joined.identity.public.client_id,
        "active",
    )
    assert PublicIdentity(device.signing_key, device.sealing_key) == joined.identity.public
    assert device.certificate_sha256 == fingerprint(joined.certificate_pem)
    loaded = load_enrolment(state_dir)
    assert loaded.identity.public == joined.identity.public
    assert replace(loaded, identity=joined.identity) == joined


def test_join_over_ipv6(closed: Site, tmp_path: Path) -> None:
    with closed.serving(listen="[::1]:0"):
        assert closed.address.startswith("[::1]:")
        assert join(closed.invite(), tmp_path / "device").name == "kitchen-pi"


def test_devices_get_different_keys(site: Site, tmp_path: Path) -> None:
    joined = [join(site.invite(name), tmp_path / name) for name in ("a", "b", "c")]
    assert len({each.identity.public.client_id for each in joined}) == 3
    assert len({each.private_key_pem for each in joined}) == 3
    assert [device.name for device in site.fleet.devices()] == ["a", "b", "c"]


def test_a_device_joins_once(site: Site, tmp_path: Path) -> None:
    state_dir = tmp_path / "device"
    joined = join(site.invite(), state_dir)
    with pytest.raises(StateError, match="joined already"):
        join(site.invite("other"), state_dir)
    assert load_enrolment(state_dir).identity.public == joined.identity.public
    assert len(site.fleet.devices()) == 1


def refusal(site: Site, code: str) -> str:
    """The text that the fleet itself gives for this code."""
    with pytest.raises(AccessError) as caught:
        site.redeem(secret_hash(parse_code(code).secret), stranger)
    return str(caught.value)


def stranger(name: str) -> Device:
    """A device with keys of its own."""
    public = Identity.generate().public
    keys = (public.client_id, public.signing_key, public.sealing_key)
    return Device(name, *keys, certificate_sha256=public.signing_key, status="active", joined_at=0.0)


def test_codes_that_are_used_expired_or_wrong(site: Site, tmp_path: Path) -> None:
    used, expired = site.invite("first"), site.invite("second", minutes=-1)
    wrong, _ = make_code(site.address, site.authority.server_pem)
    join(used, tmp_path / "first")
    for code, word in ((used, "used already"), (expired, "expired"), (wrong, "wrong")):
        with pytest.raises(AccessError, match=word) as caught:
            join(code, tmp_path / "device")
        assert str(caught.value) == refusal(site, code)
    assert {p.name for p in (tmp_path / "device").iterdir()} == {"identity.key", "device.key.pem"}
    assert join(site.invite("third"), tmp_path / "device").name == "third"


def test_a_typing_mistake_reaches_nobody(site: Site, tmp_path: Path) -> None:
    code = site.invite()
    with pytest.raises(AccessError, match="not a whole and correct join code"):
        join(code[:-1] + ("a" if code[-1] != "a" else "b"), tmp_path / "device")
    assert not (tmp_path / "device").exists()
    assert join(code, tmp_path / "device").name == "kitchen-pi"


def test_nobody_listens(closed: Site, tmp_path: Path) -> None:
    with closed.serving():
        code = closed.invite()
    with pytest.raises(LinkError, match="cannot reach"):
        join(code, tmp_path / "device")


def test_an_impostor_hears_nothing(closed: Site, tmp_path: Path) -> None:
    """Someone with another certificate at the same address: the device leaves before it says a word."""
    heard: list[bytes] = []
    other = create_authority(tmp_path / "impostor")
    wanted = pytest.raises(AccessError, match="another server, or someone in between")
    with scripted(other, lambda tls: heard.append(tls.recv(10))) as closed.address, wanted:
        join(closed.invite(), tmp_path / "device")
    assert heard == [b""]
    assert closed.fleet.devices() == []


def test_a_join_server_of_another_fleet(site: Site, tmp_path: Path) -> None:
    other = new_site(tmp_path / "other")
    with other.serving():
        ours = site.invite()
        theirs = ours.replace(site.address, other.address)
        with pytest.raises(AccessError):  # the address is under the checksum
            join(theirs, tmp_path / "device")
        mixed, _ = make_code(other.address, site.authority.server_pem)
        with pytest.raises(AccessError, match="another server"):
            join(mixed, tmp_path / "device")
    other.fleet.close()


def test_a_renewed_server_certificate_needs_new_codes(site: Site, tmp_path: Path) -> None:
    folder = site.authority.server_file.parent
    code, site.authority = site.invite(), renew_server_certificate(folder)
    assert join(code, tmp_path / "device").ca_pem == site.authority.ca_pem  # it still shows the old one


@pytest.mark.parametrize(("hours", "word"), [(3, "behind"), (-50, "ahead of")])
def test_a_wrong_clock_spends_no_code(closed: Site, tmp_path: Path, hours: float, word: str) -> None:
    """Two hours and 59 minutes at least, since the clocks go on: '2:59:59' or '3:00:00'."""
    with closed.serving(clock=lambda: time.time() + 3600 * hours):
        code = closed.invite()
        with pytest.raises(SettingsError, match=word) as caught:
            join(code, tmp_path / "device")
        assert "timedatectl set-ntp true" in str(caught.value)
        assert ("2 days, " in str(caught.value)) == (hours == -50)
        address = closed.address
    assert closed.fleet.devices() == []
    with closed.serving(listen=address):
        assert join(code, tmp_path / "device").name == "kitchen-pi"


def test_five_minutes_are_let_pass(closed: Site, tmp_path: Path) -> None:
    with closed.serving(clock=lambda: time.time() + 280):
        assert join(closed.invite(), tmp_path / "device").name == "kitchen-pi"


def test_a_full_disk_at_the_server(closed: Site, tmp_path: Path) -> None:
    def full(kept: bytes, make: Callable[[str], Device]) -> Device:
        raise StorageError("the disk is full")

    with closed.serving(redeem=full), pytest.raises(LinkError, match="the disk is full"):
        join(closed.invite(), tmp_path / "device")


def test_an_answer_that_is_lost(closed: Site, tmp_path: Path) -> None:
    """The code is spent, the device does not know: it asks again with the same keys and the same code."""

    def lost(kept: bytes, make: Callable[[str], Device]) -> Device:
        closed.redeem(kept, make)
        raise StorageError("and then the lights went out")

    with closed.serving(redeem=lost):
        code, address = closed.invite(), closed.address
        with pytest.raises(LinkError):
            join(code, tmp_path / "device")
    assert len(closed.fleet.devices()) == 1
    with closed.serving(listen=address):
        joined = join(code, tmp_path / "device")
    [device] = closed.fleet.devices()
    assert device.key_id == joined.identity.public.client_id
    assert device.certificate_sha256 == fingerprint(joined.certificate_pem)


@pytest.mark.parametrize(
    "lost", [{"enrolment.json"}, FILES - {"identity.key"}], ids=["last file", "all but one"]
)
def test_a_crash_before_the_last_file(site: Site, tmp_path: Path, lost: set[str]) -> None:
    state_dir, code = tmp_path / "device", site.invite()
    before = join(code, state_dir)
    for name in lost:
        (state_dir / name).unlink()
    with pytest.raises(StateError, match="has not joined"):
        load_enrolment(state_dir)
    again = join(code, state_dir)
    assert again.identity.public == before.identity.public
    assert load_enrolment(state_dir).certificate_pem == again.certificate_pem
    assert len(site.fleet.devices()) == 1


def test_a_crash_before_the_server_was_asked(site: Site, tmp_path: Path) -> None:
    identity, key_pem = enrolment.prepare_keys(tmp_path / "device")
    joined = join(site.invite(), tmp_path / "device")
    assert (joined.identity.public, joined.private_key_pem) == (identity.public, key_pem)


def test_damaged_and_open_state(site: Site, tmp_path: Path) -> None:
    state_dir = tmp_path / "device"
    join(site.invite(), state_dir)
    for name in FILES:
        whole = (state_dir / name).read_bytes()
        for content in (b"", b"[]", b"{}", whole[:-30], whole.replace(b"A", b"B").replace(b"a", b"b")):
            write_private(state_dir / name, content, replace=True)
            with pytest.raises(StateError):
                load_enrolment(state_dir)
        write_private(state_dir / name, whole, replace=True)
        (state_dir / name).chmod(0o644)
        with pytest.raises(SettingsError, match="chmod 600"):
            load_enrolment(state_dir)
        (state_dir / name).chmod(0o600)
        load_enrolment(state_dir)
    write_private(state_dir / "device.key.pem", make_device_key(), replace=True)
    with pytest.raises(StateError, match="do not belong together"):
        load_enrolment(state_dir)


def test_nothing_secret_is_logged(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    code = site.invite()
    join(code, tmp_path / "device")
    with pytest.raises(AccessError):
        join(code, tmp_path / "second")
    with pytest.raises(ConnectionError):
        say(site, frame(b"not JSON"))
    held = json.loads((tmp_path / "device" / "identity.key").read_text())
    secret = parse_code(code).secret
    hidden = [secret.hex(), repr(secret)[2:-1], secret_hash(secret).hex(), code.split(":")[-1]]
    hidden += [held["signing_key"], held["sealing_key"]]
    pems = [(tmp_path / "device" / "device.key.pem").read_text(), site.authority.ca_key_pem.decode()]
    hidden += [line for pem in pems for line in pem.splitlines()[1:-1]]
    assert not [each for each in hidden if each in caplog.text]
    assert "'kitchen-pi' joined from 127.0.0.1" in caplog.text
    assert "refused" in caplog.text
    assert "dropped" in caplog.text
