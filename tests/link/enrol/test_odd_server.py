"""A server with the right certificate that says wrong things: nothing is stored, and another try is clean."""

import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from fedlite.crypto.certificates import (
    create_authority,
    issue_client_certificate,
    make_csr,
    make_device_key,
)
from fedlite.crypto.identity import PublicIdentity
from fedlite.errors import (
    AccessError,
    FedliteError,
    FrameError,
    LinkError,
)
from fedlite.link.enrol import join
from tests.link.enrol.join_site import (
    LINK_ADDRESS,
    Site,
    frame,
    receive,
    scripted,
)


def odd_answers(site: Site, csr: bytes, key_id: str, folder: Path) -> dict[str, dict[str, Any]]:
    stranger_ca = create_authority(folder / "stranger")
    own = make_csr(make_device_key(), key_id)
    sound = {
        "name": "kitchen-pi",
        "certificate": issue_client_certificate(site.authority, csr, key_id).decode(),
        "ca": site.authority.ca_pem.decode(),
        "server_signing_key": site.identity.public.signing_key.hex(),
        "server_sealing_key": site.identity.public.sealing_key.hex(),
        "link_address": LINK_ADDRESS,
    }
    strange = issue_client_certificate(stranger_ca, csr, key_id).decode()
    other_key = issue_client_certificate(site.authority, own, key_id).decode()
    return {
        "nothing": {},
        "welcome is text": {"welcome": "yes"},
        "name missing": {"welcome": {k: v for k, v in sound.items() if k != "name"}},
        "key not hexadecimal": {"welcome": sound | {"server_signing_key": "zz"}},
        "short key": {"welcome": sound | {"server_sealing_key": "00"}},
        "another key's certificate": {"welcome": sound | {"certificate": other_key}},
        "another authority's certificate": {"welcome": sound | {"certificate": strange}},
        "an authority that did not sign this server": {
            "welcome": sound | {"certificate": strange, "ca": stranger_ca.ca_pem.decode()}
        },
        "not a certificate": {"welcome": sound | {"certificate": "none"}},
        "link address without port": {"welcome": sound | {"link_address": "pi"}},
        "refused without a remedy": {"refused": "no"},
    }


ODD = [
    "nothing",
    "welcome is text",
    "name missing",
    "key not hexadecimal",
    "short key",
    "another key's certificate",
    "another authority's certificate",
    "an authority that did not sign this server",
    "not a certificate",
    "link address without port",
    "refused without a remedy",
]


@pytest.mark.parametrize("name", ODD)
def test_a_server_that_answers_oddly(closed: Site, tmp_path: Path, name: str) -> None:
    def script(tls: ssl.SSLSocket) -> None:
        tls.sendall(frame(json.dumps({"fedlite": "join 1", "time": time.time()}).encode()))
        request = receive(tls)
        assert request is not None
        public = PublicIdentity(bytes.fromhex(request["signing_key"]), bytes.fromhex(request["sealing_key"]))
        answers = odd_answers(closed, request["csr"].encode(), public.client_id, tmp_path)
        assert set(answers) == set(ODD)
        tls.sendall(frame(json.dumps(answers[name]).encode()))

    with scripted(closed.authority, script) as closed.address, pytest.raises(FrameError):
        join(closed.invite(), tmp_path / "device")
    assert {p.name for p in (tmp_path / "device").iterdir()} == {"identity.key", "device.key.pem"}


GREETINGS = {
    "another protocol": frame(b'{"fedlite": "join 2", "time": 0}'),
    "no time": frame(b'{"fedlite": "join 1"}'),
    "time is text": frame(b'{"fedlite": "join 1", "time": "now"}'),
    "time is no number": frame(b'{"fedlite": "join 1", "time": NaN}'),
    "time is endless": frame(b'{"fedlite": "join 1", "time": 1e400}'),
    "time is true": frame(b'{"fedlite": "join 1", "time": true}'),
    "not JSON": frame(b"hello"),
    "too long": b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS.keys())
def test_a_server_that_greets_oddly(closed: Site, tmp_path: Path, greeting: bytes) -> None:
    heard: list[bytes] = []

    def script(tls: ssl.SSLSocket) -> None:
        tls.sendall(greeting)
        heard.append(tls.recv(1))

    with scripted(closed.authority, script) as closed.address, pytest.raises(FrameError):
        join(closed.invite(), tmp_path / "device")
    assert heard == [b""]


def test_a_server_that_stays_silent(closed: Site, tmp_path: Path) -> None:
    wanted = pytest.raises(LinkError, match="too long")
    with scripted(closed.authority, lambda tls: tls.recv(1)) as closed.address, wanted:
        join(closed.invite(), tmp_path / "device", timeout_seconds=0.3)


def test_a_refusal_is_shown_without_control_characters(closed: Site, tmp_path: Path) -> None:
    def script(tls: ssl.SSLSocket) -> None:
        tls.sendall(frame(json.dumps({"fedlite": "join 1", "time": time.time()}).encode()))
        receive(tls)
        tls.sendall(frame(json.dumps({"refused": "no\x1b[2J\n", "remedy": "x" * 9999}).encode()))

    with scripted(closed.authority, script) as closed.address, pytest.raises(AccessError) as caught:
        join(closed.invite(), tmp_path / "device")
    assert isinstance(caught.value, FedliteError)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
