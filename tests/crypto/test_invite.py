"""Join codes: what they hold, and that every typing mistake is found before anything is sent."""

import hashlib
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlite.crypto.certificates import Authority, create_authority, fingerprint
from fedlite.crypto.identity import PublicIdentity
from fedlite.crypto.invite import (
    check_phrase,
    make_code,
    parse_code,
    secret_hash,
    shown_fingerprint,
    split_address,
)
from fedlite.errors import AccessError, SettingsError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return create_authority(Path(tmp_path_factory.mktemp("authority")))


@pytest.mark.parametrize("address", ["pi.local:9443", "192.168.1.5:1", "[::1]:65535", "[fe80::1%eth0]:80"])
def test_round_trip(authority: Authority, address: str) -> None:
    code, kept = make_code(address, authority.server_pem)
    parsed = parse_code(f"  {code}\n")
    assert parsed.address == address
    assert parsed.fingerprint == fingerprint(authority.server_pem)[:16]
    assert code.split(":")[-2] == shown_fingerprint(authority.server_pem)
    assert (
        secret_hash(parsed.secret)
        == kept
        == hashlib.sha256(b"fedlite join secret v1\0" + parsed.secret).digest()
    )
    assert len(parsed.secret) == 16
    assert parse_code(code.upper()) == parsed


def test_a_code_is_one_line_of_plain_characters(authority: Authority) -> None:
    code, _ = make_code("pi.local:9443", authority.server_pem)
    assert code.startswith("fl1:pi.local:9443:")
    assert set(code) <= set(string.ascii_lowercase + string.digits + ":.")
    assert len(code) == len("fl1:pi.local:9443:") + 26 + 1 + 32


def test_secrets_differ_and_do_not_show(authority: Authority) -> None:
    codes = [make_code("pi:1", authority.server_pem) for _ in range(50)]
    assert len({kept for _, kept in codes}) == 50
    parsed = parse_code(codes[0][0])
    assert repr(parsed.secret) not in repr(parsed)
    assert "secret" not in repr(parsed)


def test_every_single_typing_mistake_is_found(authority: Authority) -> None:
    code, _ = make_code("pi.local:9443", authority.server_pem)
    for at in range(len(code)):
        for wrong in "a7:z.0":
            if wrong != code[at]:
                with pytest.raises(AccessError):
                    parse_code(code[:at] + wrong + code[at + 1 :])
        for mistyped in (code[:at] + code[at + 1 :], code[:at] + code[at] + code[at:], code[:at]):
            with pytest.raises(AccessError):
                parse_code(mistyped)
        swapped = code[:at] + code[at : at + 2][::-1] + code[at + 2 :]
        if swapped != code:
            with pytest.raises(AccessError):
                parse_code(swapped)


@given(st.text(max_size=120) | st.text("fl1:[]abc234.", max_size=120).map("fl1:".__add__))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(AccessError):
        parse_code(text)


def test_a_malformed_code_is_not_repeated_in_the_message() -> None:
    with pytest.raises(AccessError) as caught:
        parse_code("fl1:pi:1:aaaa:topsecret")
    assert "topsecret" not in str(caught.value)
    with pytest.raises(AccessError):
        parse_code("fl1:" * 100_000)


@pytest.mark.parametrize(
    ("text", "host", "port"), [("a:1", "a", 1), ("[::1]:0", "::1", 0), ("PI.Local:65535", "pi.local", 65535)]
)
def test_split_address(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "pi", ":1", "pi:", "pi:65536", "::1:80", "pi:1:2", "a b:1", "pi:٣", "[]:1"]
)
def test_split_address_refuses(text: str) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        split_address(text)


def test_check_phrase() -> None:
    one, two = PublicIdentity(b"a" * 32, b"b" * 32), PublicIdentity(b"c" * 32, b"d" * 32)
    phrase = check_phrase(one, two)
    assert [len(group) for group in phrase.split()] == [4] * 6
    assert phrase.replace(" ", "").isdigit()
    others = [
        check_phrase(two, one),
        check_phrase(one, PublicIdentity(b"c" * 32, b"x" * 32)),
        check_phrase(one, PublicIdentity(b"x" * 32, b"d" * 32)),
    ]
    assert len({phrase, *others}) == 4
