"""The authority and what it issues, checked by OpenSSL through `ssl` and by the parser of `cryptography`."""

import os
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedlite.crypto import certificates
from fedlite.crypto.certificates import (
    Authority,
    create_authority,
    fingerprint,
    issue_client_certificate,
    load_authority,
    make_csr,
    make_device_key,
    renew_server_certificate,
    validity,
)
from fedlite.errors import FrameError, SealError, SettingsError, StateError

KEY_ID = "ab" * 16


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return create_authority(tmp_path_factory.mktemp("authority"), ["pi.local", "192.168.1.5", "fe80::1"])


def device(authority: Authority, key_id: str = KEY_ID) -> tuple[bytes, bytes]:
    """(key, certificate)."""
    key = make_device_key()
    return key, issue_client_certificate(authority, make_csr(key, key_id), key_id)


def handshake(authority: Authority, folder: Path, key: bytes, pem: bytes, name: str) -> dict[str, object]:
    """TLS 1.3 with both certificates, in memory; what the server knows of the client afterwards."""
    (folder / "device.pem").write_bytes(key + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.server_file)
    server.load_verify_locations(cadata=authority.ca_pem.decode())
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cadata=authority.ca_pem.decode())
    client.load_cert_chain(folder / "device.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(to_client, to_server, server_hostname=name)
    right = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (left, right):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    found = right.getpeercert()
    assert found is not None
    return found


@pytest.mark.parametrize(
    "name", ["fedlite", "localhost", "127.0.0.1", "::1", "pi.local", "192.168.1.5", "fe80::1"]
)
def test_mutual_tls_by_every_name(authority: Authority, tmp_path: Path, name: str) -> None:
    found = handshake(authority, tmp_path, *device(authority), name)
    assert found["subject"] == ((("commonName", KEY_ID),),)


def test_another_name_is_refused(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority, tmp_path, *device(authority), "example.org")


def test_a_device_of_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = create_authority(tmp_path / "other")
    with pytest.raises(ssl.SSLError):
        handshake(authority, tmp_path, *device(other), "fedlite")


def test_a_device_certificate_cannot_pose_as_the_server(authority: Authority, tmp_path: Path) -> None:
    key, pem = device(authority)
    (tmp_path / "posing.pem").write_bytes(key + pem)
    posing = Authority(authority.ca_pem, b"", pem, key, tmp_path / "posing.pem")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(posing, tmp_path, key, pem, "fedlite")


def test_what_the_certificates_say(authority: Authority) -> None:
    ca = x509.load_pem_x509_certificate(authority.ca_pem)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    leaf = x509.load_pem_x509_certificate(device(authority)[1])
    assert leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == KEY_ID
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_validity_spans_1970_to_ten_years_from_now(authority: Authority) -> None:
    for pem in (authority.ca_pem, authority.server_pem, device(authority)[1]):
        begin, end = validity(pem)
        assert begin == datetime(1970, 1, 1, tzinfo=UTC)
        assert timedelta(days=3650) < end - datetime.now(UTC) <= timedelta(days=3653)
        assert end <= validity(authority.ca_pem)[1]


def test_fingerprint_is_sha256_of_der(authority: Authority) -> None:
    found = x509.load_pem_x509_certificate(authority.server_pem)
    assert fingerprint(authority.server_pem) == found.fingerprint(hashes.SHA256())


def test_files_are_private_and_load_again(tmp_path: Path) -> None:
    made = create_authority(tmp_path)
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {
        "ca.pem": 0o600,
        "server.pem": 0o600,
    }
    assert load_authority(tmp_path) == made
    (tmp_path / "ca.pem").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_authority(tmp_path)


def test_private_keys_do_not_show(authority: Authority) -> None:
    assert b"PRIVATE KEY" in authority.ca_key_pem
    assert "PRIVATE KEY" not in repr(authority)


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    made = create_authority(tmp_path)
    with pytest.raises(StateError, match="already"):
        create_authority(tmp_path)
    assert load_authority(tmp_path) == made


def test_of_many_at_once_one_makes_it(tmp_path: Path) -> None:
    """Had another written the server's half, the two files would not belong together."""

    def make() -> bool:
        try:
            create_authority(tmp_path)
        except StateError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        made = [future.result() for future in [pool.submit(make) for _ in range(8)]]
    assert sum(made) == 1
    load_authority(tmp_path)


def test_a_crash_while_making_it_leaves_room_for_another_try(tmp_path: Path) -> None:
    """The CA's file is written last: with the server's alone, nothing has been made."""
    create_authority(tmp_path)
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(StateError, match="missing"):
        load_authority(tmp_path)
    made = create_authority(tmp_path)
    assert load_authority(tmp_path) == made


def test_renewal_keeps_the_authority(tmp_path: Path) -> None:
    old = create_authority(tmp_path)
    key, pem = device(old)
    new = renew_server_certificate(tmp_path, ["new.local"])
    assert (new.ca_pem, new.ca_key_pem) == (old.ca_pem, old.ca_key_pem)
    assert new.server_pem != old.server_pem
    assert new.server_key_pem != old.server_key_pem
    assert load_authority(tmp_path) == new
    assert handshake(new, tmp_path, key, pem, "new.local")["subject"] == ((("commonName", KEY_ID),),)


def test_damaged_or_mixed_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    create_authority(one)
    create_authority(two)
    os.replace(two / "server.pem", one / "server.pem")
    with pytest.raises(StateError, match="different authorities"):
        load_authority(one)
    renew_server_certificate(one)
    load_authority(one)
    for content in (b"", b"-----BEGIN CERTIFICATE-----\n", (one / "ca.pem").read_bytes()[:-80]):
        (one / "ca.pem").write_bytes(content)
        with pytest.raises(StateError, match="damaged"):
            load_authority(one)
        with pytest.raises(StateError, match="damaged"):
            renew_server_certificate(one)


@pytest.mark.parametrize("host", ["", "a b", "pi:9000", "http://pi", "пи", "x" * 254])
def test_impossible_hosts(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match="host"):
        create_authority(tmp_path, [host])


def test_a_clock_that_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Unset(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(1970, 1, 3, tzinfo=UTC)

    monkeypatch.setattr(certificates, "datetime", Unset)
    with pytest.raises(SettingsError, match="1970-01-03"):
        create_authority(tmp_path)


def test_requests_that_are_refused(authority: Authority) -> None:
    def request(key: object, name: str = KEY_ID) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)

    sound = make_csr(make_device_key(), KEY_ID)
    for csr in (b"", b"garbage", authority.server_pem, sound[:-60], authority.ca_key_pem):
        with pytest.raises(FrameError, match="not a certificate request"):
            issue_client_certificate(authority, csr, KEY_ID)
    for key in (ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(FrameError, match="P-256"):
            issue_client_certificate(authority, request(key), KEY_ID)
    with pytest.raises(FrameError, match="key id"):
        issue_client_certificate(authority, make_csr(make_device_key(), "cd" * 16), KEY_ID)


def test_a_request_must_be_signed_by_its_own_key(authority: Authority) -> None:
    """The last bytes of a request are its signature's s; another s is another signature."""
    der = bytearray(ssl.PEM_cert_to_DER_cert(rename(make_csr(make_device_key(), KEY_ID))))
    der[-1] ^= 1
    pem = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()
    with pytest.raises(SealError):
        issue_client_certificate(authority, pem, KEY_ID)


def rename(csr: bytes) -> str:
    return csr.decode().replace("CERTIFICATE REQUEST", "CERTIFICATE")


def test_extensions_of_a_request_are_ignored(authority: Authority) -> None:
    """A device that asks to be an authority, or a server, gets a plain client certificate."""
    key = serialization.load_pem_private_key(make_device_key(), None)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, KEY_ID)])
    greedy = x509.CertificateSigningRequestBuilder().subject_name(subject)
    greedy = greedy.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    names = x509.SubjectAlternativeName([x509.DNSName("fedlite")])
    csr = greedy.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = issue_client_certificate(authority, csr.public_bytes(serialization.Encoding.PEM), KEY_ID)
    issued = x509.load_pem_x509_certificate(pem)
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        issued.extensions.get_extension_for_class(x509.SubjectAlternativeName)


@pytest.mark.parametrize("pem", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_not_a_certificate(pem: bytes) -> None:
    with pytest.raises(FrameError):
        fingerprint(pem)
    with pytest.raises(FrameError):
        validity(pem)
