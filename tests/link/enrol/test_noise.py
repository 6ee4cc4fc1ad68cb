"""What is not a request gets no answer, spends no code, and does not keep the next device from joining."""

import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite.crypto.certificates import (
    fingerprint,
    make_csr,
    make_device_key,
)
from fedlite.crypto.identity import Identity
from fedlite.crypto.invite import make_code, parse_code
from fedlite.errors import (
    LinkError,
    SettingsError,
)
from fedlite.ledger.fleet import Device
from fedlite.link.enrol import JoinServer, join
from fedlite.link.enrol_port import MAX_ADDRESSES, Door
from fedlite.link.enrol_wire import MAX_BYTES, Request, make_request
from tests.link.enrol.join_site import (
    LINK_ADDRESS,
    Site,
    connected,
    frame,
    pinless,
    receive,
    resigned,
    say,
)


def sound_request(site: Site, code: str) -> Request:
    identity = Identity.generate()
    csr = make_csr(make_device_key(), identity.public.client_id)
    return make_request(parse_code(code).secret, identity, csr, fingerprint(site.authority.server_pem))


def test_a_sound_request_by_hand(site: Site) -> None:
    """So that the refusals below are for their own reasons."""
    request = sound_request(site, site.invite())
    answer = say(site, frame(json.dumps(request.to_message()).encode()))
    assert set(answer) == {"welcome"}


NOISE = {
    "claims 4 GiB": b"\xff\xff\xff\xff",
    "one byte too many": (MAX_BYTES + 1).to_bytes(4, "big") + bytes(MAX_BYTES + 1),
    "empty": frame(b""),
    "not JSON": frame(b"{"),
    "not UTF-8": frame(b"\xff\xfe"),
    "a list": frame(b"[]"),
    "deep": frame(b"[" * 16000),
    "long number": frame(b"1" * 16000),
    "no fields": frame(b"{}"),
    "numbers": frame(
        json.dumps(dict.fromkeys(("secret", "signing_key", "sealing_key", "csr", "proof"), 1)).encode()
    ),
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
def test_noise_after_the_handshake(site: Site, tmp_path: Path, noise: bytes) -> None:
    with pytest.raises(ConnectionError):
        say(site, noise)
    assert join(site.invite(), tmp_path / "device").name == "kitchen-pi"


def unsound(request: Request) -> dict[str, dict[str, Any]]:
    """Messages that differ from a sound one in one thing."""
    sound, other = request.to_message(), Identity.generate()
    csr = make_csr(make_device_key(), request.public.client_id)
    return {
        "field missing": {key: value for key, value in sound.items() if key != "proof"},
        "field too many": sound | {"more": ""},
        "not hexadecimal": sound | {"proof": "zz" * 64},
        "short key": sound | {"signing_key": sound["signing_key"][2:]},
        "other signing key": sound | {"signing_key": other.public.signing_key.hex()},
        "other sealing key": sound | {"sealing_key": other.public.sealing_key.hex()},
        "other secret": sound | {"secret": "00" * 16},
        "other csr": sound | {"csr": csr.decode()},
        "csr not ASCII": sound | {"csr": sound["csr"] + "é"},
        "no proof": sound | {"proof": ""},
    }


def test_unsound_requests_spend_no_code(closed: Site, tmp_path: Path) -> None:
    asked: list[bytes] = []

    def redeem(kept: bytes, make: Callable[[str], Device]) -> Device:
        asked.append(kept)
        return closed.redeem(kept, make)

    with closed.serving(redeem=redeem):
        code = closed.invite()
        for message in unsound(sound_request(closed, code)).values():
            with pytest.raises(ConnectionError):
                say(closed, frame(json.dumps(message).encode()))
        assert asked == []
        assert join(code, tmp_path / "device").name == "kitchen-pi"


@pytest.mark.parametrize(
    "changes",
    [
        {"sealing_key": bytes(32)},  # of small order: everybody could open what is sealed to it
        {"fingerprint": bytes(32)},  # a request made for another server
        {"key_id": "ab" * 16},
        {"csr": b"-----BEGIN CERTIFICATE REQUEST-----"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_signed_but_unsound(site: Site, tmp_path: Path, changes: dict[str, Any]) -> None:
    code = site.invite()
    with pytest.raises(ConnectionError):
        say(site, resigned(site, code, **changes))
    assert site.fleet.devices() == []
    assert join(code, tmp_path / "device").name == "kitchen-pi"


def test_bytes_that_are_not_tls(site: Site, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    host, _, port = site.address.rpartition(":")
    for size in (0, 1, 5, 100, 70_000):
        with socket.create_connection((host, int(port)), 20) as raw:
            try:
                raw.sendall(b"GET / HTTP/1.1\r\n\r\n" if size == 5 else rng.bytes(size))
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(4096):
                    pass
            except OSError:  # the server has closed already
                continue
    assert join(site.invite(), tmp_path / "device").name == "kitchen-pi"


def test_old_tls_is_refused(site: Site) -> None:
    context = pinless()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    host, _, port = site.address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)


def test_slow_and_silent_peers_are_cut_off(closed: Site, tmp_path: Path) -> None:
    """A byte now and then does not prolong the time that one connection has altogether."""
    with closed.serving(timeout_seconds=0.5), connected(closed) as silent, connected(closed) as slow:
        host, _, port = closed.address.rpartition(":")
        with socket.create_connection((host, int(port)), 20) as mute:  # not even a handshake
            try:
                slow.sendall(MAX_BYTES.to_bytes(4, "big"))
                for _ in range(1000):
                    slow.sendall(b"\0")
                    time.sleep(0.01)
            except OSError:
                pass
            else:
                pytest.fail("the server listened to one byte at a time for 10 seconds")
            assert receive(silent) is None
            assert mute.recv(1) == b""


def test_only_so_many_at_once(closed: Site, tmp_path: Path) -> None:
    with closed.serving(door=Door(max_connections=2)):
        with connected(closed), connected(closed), pytest.raises(LinkError):
            join(closed.invite(), tmp_path / "device")
        code = closed.invite()
        for _ in range(200):
            try:
                assert join(code, tmp_path / "device").name == "kitchen-pi"
                break
            except LinkError:  # the two are not gone yet
                time.sleep(0.02)
        else:
            pytest.fail("still no room after 200 attempts")


def test_too_many_failures_from_one_address(closed: Site, tmp_path: Path) -> None:
    wrong = [make_code("127.0.0.1:1", closed.authority.server_pem)[0] for _ in range(3)]
    with closed.serving(door=Door(max_failures=3)):
        for each in wrong:
            assert "refused" in say(closed, resigned(closed, each))
        for _ in range(200):  # the third is noted just after its answer
            try:
                say(closed, resigned(closed, wrong[0]))
            except (OSError, AssertionError):
                break
        else:
            pytest.fail("still answered after 200 failures")
        with pytest.raises(LinkError):
            join(closed.invite(), tmp_path / "device")


def test_the_door_forgets() -> None:
    door = Door(max_connections=1, max_failures=1, window_seconds=0.0)
    door.failed("a")
    assert door.enter("a")
    assert not door.enter("b")
    door.leave()
    assert door.enter("b")
    strict = Door(max_failures=1)
    for number in range(MAX_ADDRESSES + 1):
        strict.failed(str(number))
    assert strict.enter("0")
    assert not strict.enter("1")
    assert not strict.enter(str(MAX_ADDRESSES))


def test_stop_ends_open_connections_and_frees_the_port(closed: Site) -> None:
    with closed.serving(timeout_seconds=60):
        address = closed.address
        host, _, port = address.rpartition(":")
        tls = pinless().wrap_socket(socket.create_connection((host, int(port)), 20))
        assert receive(tls) is not None
    assert receive(tls) is None
    tls.close()
    with closed.serving(listen=address), connected(closed):
        assert closed.address == address


def test_a_port_in_use(site: Site) -> None:
    server = JoinServer(site.address, site.authority, site.identity.public, site.redeem, lambda: LINK_ADDRESS)
    with pytest.raises(SettingsError, match=site.address):
        server.start()
    server.stop()


def test_a_listen_address_without_port(site: Site) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        JoinServer("127.0.0.1", site.authority, site.identity.public, site.redeem, lambda: LINK_ADDRESS)


def test_a_mistake_of_ours_ends_one_connection(
    closed: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mistakes = [ZeroDivisionError("ours")]

    def redeem(kept: bytes, make: Callable[[str], Device]) -> Device:
        if mistakes:
            raise mistakes.pop()
        return closed.redeem(kept, make)

    with closed.serving(redeem=redeem):
        code = closed.invite()
        with pytest.raises(LinkError):
            join(code, tmp_path / "device")
        assert join(code, tmp_path / "device").name == "kitchen-pi"
    assert "ZeroDivisionError" in caplog.text
