"""The X.509 side: a small authority on the server, its server certificate, and one certificate per device.

P-256 throughout, because gRPC's BoringSSL takes no Ed25519 certificates by default. Certificates are valid
from 1970 (a Pi has no clock when it boots) for 10 years; revocation is the fleet's list, not a date.
"""

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedlite.crypto._primitives import not_authentic
from fedlite.crypto.files import locked, read_private, write_private
from fedlite.errors import FrameError, SettingsError, StateError

SERVER_NAME = "fedlite"  # always among the server's names: what a device asks for, whatever the address
NOT_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
VALIDITY = timedelta(days=3653)
CA_FILE, SERVER_FILE = "ca.pem", "server.pem"  # key and certificate in one file, so that they change together
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_PARSE_ERRORS = (ValueError, TypeError, x509.UnsupportedGeneralNameType)


@dataclass(frozen=True)
class Authority:
    """The server's certificates and keys, PEM; `server_file` holds the server's key and certificate."""

    ca_pem: bytes
    ca_key_pem: bytes = field(repr=False)
    server_pem: bytes
    server_key_pem: bytes = field(repr=False)
    server_file: Path


def create_authority(state_dir: Path, hosts: Sequence[str] = ()) -> Authority:
    """Make the CA and the server's certificate in `state_dir`, each file 0600.

    `hosts` are the names and addresses by which devices reach the server, besides this machine's own.
    StateError when there is an authority already; SettingsError for an impossible host name, or a clock
    that is clearly not set.
    """
    with locked(state_dir):
        if (state_dir / CA_FILE).exists():
            raise StateError(f"{state_dir / CA_FILE} exists: this server has its authority already")
        ca_key_pem, ca_pem = _new_ca()
        _write_server(state_dir, ca_pem, ca_key_pem, hosts)
        write_private(state_dir / CA_FILE, ca_key_pem + ca_pem)  # last: its presence says that all is there
    return load_authority(state_dir)


def load_authority(state_dir: Path) -> Authority:
    """Read what `create_authority` wrote.

    StateError when missing or damaged, SettingsError when others may read it.
    """
    ca_key_pem, ca_pem = _split(read_private(state_dir / CA_FILE))
    server_key_pem, server_pem = _split(read_private(state_dir / SERVER_FILE))
    try:
        check_issued(ca_pem, ca_pem, public_key_of(ca_key_pem))
        check_issued(server_pem, ca_pem, public_key_of(server_key_pem))
    except (FrameError, *_PARSE_ERRORS):
        intact = False
    else:
        intact = True
    if not intact:
        raise StateError(
            f"{CA_FILE} and {SERVER_FILE} in {state_dir} are damaged or of different authorities"
        )
    return Authority(ca_pem, ca_key_pem, server_pem, server_key_pem, state_dir / SERVER_FILE)


def renew_server_certificate(state_dir: Path, hosts: Sequence[str] = ()) -> Authority:
    """A new server key and certificate (new dates, these `hosts`) from the same CA: devices need not rejoin.

    Works without the old server certificate. Raises as `create_authority` and `load_authority` do.
    """
    ca_key_pem, ca_pem = _split(read_private(state_dir / CA_FILE))
    try:
        _write_server(state_dir, ca_pem, ca_key_pem, hosts)
    except (FrameError, *_PARSE_ERRORS):
        raise StateError(f"{state_dir / CA_FILE} is damaged") from None
    return load_authority(state_dir)


def make_device_key() -> bytes:
    """A new P-256 private key for TLS, PEM (PKCS #8, not encrypted)."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def make_csr(key_pem: bytes, key_id_hex: str) -> bytes:
    """A certificate request for `key_id_hex`, PEM; its signature proves that the sender holds the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(key_id_hex))
    return builder.sign(_private_key(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def issue_client_certificate(authority: Authority, csr_pem: bytes, key_id_hex: str) -> bytes:
    """A device's certificate, PEM: common name `key_id_hex`, for TLS clients only.

    Of the request only the key is taken. FrameError unless it is a request for this key id with a P-256
    key; SealError unless that key signed it.
    """
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key, subject, valid = request.public_key(), request.subject, request.is_signature_valid
    except (*_PARSE_ERRORS, InvalidSignature):
        raise FrameError("not a certificate request in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FrameError("the certificate request has another key than P-256")
    if subject != _name(key_id_hex):
        raise FrameError(f"the certificate request is not for key id {key_id_hex}")
    if not valid:
        raise not_authentic()
    ca = _certificate(authority.ca_pem)
    builder = _builder(subject, ca.subject, key, min(_not_after(), ca.not_valid_after_utc))
    builder = _leaf(builder, ExtendedKeyUsageOID.CLIENT_AUTH, ca)
    return _pem(builder.sign(_private_key(authority.ca_key_pem), hashes.SHA256()))


def check_issued(certificate_pem: bytes, ca_pem: bytes, public_key: bytes | None = None) -> None:
    """Raise FrameError unless the CA signed the certificate and it holds `public_key` (DER), if one is given."""
    issued, ca = _certificate(certificate_pem), _certificate(ca_pem)
    try:
        issued.verify_directly_issued_by(ca)
    except (InvalidSignature, *_PARSE_ERRORS):
        raise FrameError("the certificate is not one of this authority") from None
    if public_key is not None and _public_der(issued.public_key()) != public_key:
        raise FrameError("the certificate is for another key")


def public_key_of(key_pem: bytes) -> bytes:
    """The public half of a PEM private key, DER (SubjectPublicKeyInfo)."""
    return _public_der(_private_key(key_pem).public_key())


def fingerprint(certificate_pem: bytes) -> bytes:
    """SHA-256 (32 bytes) of the certificate's DER form. FrameError when it is not a certificate."""
    return hashlib.sha256(_certificate(certificate_pem).public_bytes(serialization.Encoding.DER)).digest()


def validity(certificate_pem: bytes) -> tuple[datetime, datetime]:
    """(valid from, valid until), in UTC. FrameError when it is not a certificate."""
    found = _certificate(certificate_pem)
    return found.not_valid_before_utc, found.not_valid_after_utc


def _new_ca() -> tuple[bytes, bytes]:
    """(key, certificate) of a new authority, which issues leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("fedlite authority")
    builder = _builder(name, name, key.public_key(), _not_after())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(certificates=True), critical=True)
    return _key_pem(key), _pem(builder.sign(key, hashes.SHA256()))


def _write_server(state_dir: Path, ca_pem: bytes, ca_key_pem: bytes, hosts: Sequence[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate(ca_pem)
    not_after = min(_not_after(), ca.not_valid_after_utc)
    builder = _builder(_name("fedlite server"), ca.subject, key.public_key(), not_after)
    names = dict.fromkeys([SERVER_NAME, "localhost", "127.0.0.1", "::1", *hosts])
    builder = builder.add_extension(x509.SubjectAlternativeName([_host(n) for n in names]), critical=False)
    builder = _leaf(builder, ExtendedKeyUsageOID.SERVER_AUTH, ca)
    pem = _pem(builder.sign(_private_key(ca_key_pem), hashes.SHA256()))
    write_private(state_dir / SERVER_FILE, _key_pem(key) + pem, replace=True)


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    if not name or len(name) > 253 or not name.isascii() or set(name) & set(" :/[]@"):
        raise SettingsError(f"host {name!r} is neither an IP address nor a DNS name")
    return x509.DNSName(name)


def _not_after() -> datetime:
    now = datetime.now(UTC).replace(microsecond=0)
    if now.year < 2025:
        raise SettingsError(
            f"this machine's clock says {now:%Y-%m-%d}, so certificates would expire too early",
            remedy="set the clock: timedatectl set-ntp true",
        )
    return now + VALIDITY


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, not_after: datetime
) -> x509.CertificateBuilder:
    """Everything but what the certificate is for."""
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOT_BEFORE).not_valid_after(not_after)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _leaf(
    builder: x509.CertificateBuilder, use: x509.ObjectIdentifier, ca: x509.Certificate
) -> x509.CertificateBuilder:
    """The extensions of a certificate that issues none itself (RFC 5280 §4.2.1)."""
    issuer = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    return builder.add_extension(issuer_id, critical=False)


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _split(both: bytes) -> tuple[bytes, bytes]:
    """(key, certificate) of a file that holds both."""
    key_pem, begin, rest = both.partition(_BEGIN)
    return key_pem, begin + rest


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except _PARSE_ERRORS:
        raise FrameError("not a certificate in PEM form") from None


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a P-256 private key")
    return key


def _public_der(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise FrameError("the certificate has another key than P-256")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.PEM)
