"""Join codes: one line that an operator hands to a device, `fl1:<host:port>:<fingerprint>:<secret>`.

The fingerprint (16 bytes of SHA-256 over the join server's certificate) tells the device whom it talks to
before it says anything; the secret (16 random bytes) tells the server that the device was invited, once.
Both are base32 in lower case; 4 bytes of checksum end the line, so that a typing mistake is found at once.
"""

import base64
import binascii
import hashlib
import re
import secrets
from dataclasses import dataclass, field

from fedlite.crypto.certificates import fingerprint
from fedlite.crypto.identity import PublicIdentity
from fedlite.errors import AccessError, SettingsError

PREFIX = "fl1"
FINGERPRINT_BYTES = 16
SECRET_BYTES = 16
CHECKSUM_BYTES = 4
MAX_CHARACTERS = 400
_SECRET_LABEL = b"fedlite join secret v1\0"
_CHECKSUM_LABEL = b"fedlite join code v1\0"
_PHRASE_LABEL = b"fedlite check phrase v1\0"
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True)
class JoinCode:
    """What a join code says; its repr does not show the secret."""

    host: str  # IPv6 without brackets
    port: int
    fingerprint: bytes
    secret: bytes = field(repr=False)

    @property
    def address(self) -> str:
        """`host:port`, IPv6 in brackets."""
        return join_address(self.host, self.port)


def make_code(address: str, certificate_pem: bytes) -> tuple[str, bytes]:
    """(the code to hand out, the hash of its secret to keep). SettingsError unless `address` is host:port."""
    host, port = split_address(address)
    secret = secrets.token_bytes(SECRET_BYTES)
    code = JoinCode(host, port, fingerprint(certificate_pem)[:FINGERPRINT_BYTES], secret)
    checked = secret + _checksum(code)
    return f"{PREFIX}:{code.address}:{_encode(code.fingerprint)}:{_encode(checked)}", secret_hash(secret)


def shown_fingerprint(certificate_pem: bytes) -> str:
    """The server's fingerprint as its join codes hold it, for people to compare."""
    return _encode(fingerprint(certificate_pem)[:FINGERPRINT_BYTES])


def parse_code(code: str) -> JoinCode:
    """What the line says, whatever the case of its letters; AccessError if it is malformed."""
    parts = code.strip().split(":") if len(code) <= MAX_CHARACTERS else []
    try:
        if len(parts) < 5 or parts[0].lower() != PREFIX:
            raise ValueError("another form")
        host, port = split_address(":".join(parts[1:-2]))
        seen, checked = (
            _decode(parts[-2], FINGERPRINT_BYTES),
            _decode(parts[-1], SECRET_BYTES + CHECKSUM_BYTES),
        )
        found = JoinCode(host, port, seen, checked[:SECRET_BYTES])
        if checked[SECRET_BYTES:] != _checksum(found):
            raise ValueError("checksum")
    except (ValueError, SettingsError):
        raise AccessError(
            "this is not a whole and correct join code (fl1:host:port:fingerprint:secret)",
            remedy="copy the line once more, all of it; if that does not help, ask the operator for a new",
        ) from None
    return found


def secret_hash(secret: bytes) -> bytes:
    """What the server keeps instead of the secret: 32 bytes, useless for joining."""
    return hashlib.sha256(_SECRET_LABEL + secret).digest()


def split_address(text: str) -> tuple[str, int]:
    """(host, port) of `host:port` or `[IPv6]:port`; port 0 … 65535. SettingsError otherwise."""
    found = _ADDRESS.fullmatch(text)
    if found is None or (port := int(found[3])) > 65535:
        raise SettingsError(f"address is {text!r}; host:port expected, with IPv6 in brackets: [::1]:9443")
    return (found[1] or found[2]).lower(), port


def join_address(host: str, port: int) -> str:
    """`host:port`, IPv6 in brackets: what `split_address` takes apart."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_phrase(server: PublicIdentity, device: PublicIdentity) -> str:
    """Six groups of four digits (80 bits hashed to 24 digits) that server and device can both show.

    Equal phrases mean that both hold the same four public keys.
    """
    keys = (server.signing_key, server.sealing_key, device.signing_key, device.sealing_key)
    digest = hashlib.sha256(_PHRASE_LABEL + b"".join(keys)).digest()
    return " ".join(f"{int.from_bytes(digest[at : at + 4], 'big') % 10_000:04}" for at in range(0, 24, 4))


def _checksum(code: JoinCode) -> bytes:
    text = code.address.encode() + b"\0" + code.fingerprint + code.secret
    return hashlib.sha256(_CHECKSUM_LABEL + text).digest()[:CHECKSUM_BYTES]


def _encode(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _decode(text: str, size: int) -> bytes:
    """Exactly what `_encode` wrote for `size` bytes; ValueError for anything else."""
    try:
        data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise ValueError("not base32") from None
    if len(data) != size or _encode(data) != text.lower():
        raise ValueError("another length")
    return data
