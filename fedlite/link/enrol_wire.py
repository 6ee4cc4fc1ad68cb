"""The three messages of joining, each one frame: length (4 bytes, big-endian) ‖ JSON object in UTF-8.

server → device   greeting   {"fedlite": "join 1", "time": seconds since 1970}
device → server   request    {"secret", "signing_key", "sealing_key", "csr", "proof"}
server → device   answer     {"welcome": {…}} | {"refused": text, "remedy": text} | {"later": text}
"""

import hashlib
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any

from fedlite.crypto.identity import Identity, PublicIdentity, Purpose
from fedlite.crypto.invite import secret_hash
from fedlite.errors import FrameError, LinkError

PROTOCOL = "join 1"
REQUEST_FIELDS = ("secret", "signing_key", "sealing_key", "csr", "proof")
MAX_BYTES = 16 * 1024


class Stream:
    """Frames over one TLS socket, all of them within `timeout_seconds` of now. LinkError when it breaks."""

    def __init__(self, sock: ssl.SSLSocket, timeout_seconds: float) -> None:
        self._sock = sock
        self._deadline = time.monotonic() + timeout_seconds

    def handshake(self) -> None:
        """Complete TLS."""
        self._arm()
        try:
            self._sock.do_handshake()
        except (OSError, ValueError) as error:
            raise _broken(error) from None

    def send(self, message: dict[str, Any]) -> None:
        """Write one frame."""
        data = json.dumps(message).encode()
        self._arm()
        try:
            self._sock.sendall(len(data).to_bytes(4, "big") + data)
        except (OSError, ValueError) as error:
            raise _broken(error) from None

    def receive(self) -> dict[str, Any]:
        """Read one frame; FrameError, before any memory is taken, when it claims more than 16 kB."""
        size = int.from_bytes(self._exactly(4), "big")
        if size > MAX_BYTES:
            raise FrameError(f"a join message claims {size} bytes, limit {MAX_BYTES}")
        try:
            message = json.loads(self._exactly(size))
        except (ValueError, RecursionError):
            raise FrameError("a join message is not JSON") from None
        if not isinstance(message, dict):
            raise FrameError(f"a join message is a JSON {type(message).__name__}, object expected")
        return message

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._arm()
            try:
                part = self._sock.recv(size - len(data))
            except (OSError, ValueError) as error:
                raise _broken(error) from None
            if not part:
                raise LinkError("the other side closed the connection")
            data += part
        return bytes(data)

    def _arm(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise LinkError("the other side took too long")
        self._sock.settimeout(left)


@dataclass(frozen=True)
class Request:
    """What a device sends: who it wants to be, proof that it holds those keys, and the secret of its code."""

    secret: bytes = field(repr=False)
    public: PublicIdentity
    csr_pem: bytes
    proof: bytes

    def to_message(self) -> dict[str, Any]:
        """As the JSON object of the request frame."""
        return {
            "secret": self.secret.hex(),
            "signing_key": self.public.signing_key.hex(),
            "sealing_key": self.public.sealing_key.hex(),
            "csr": self.csr_pem.decode(),
            "proof": self.proof.hex(),
        }

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Request":
        """FrameError unless the object is exactly what `to_message` writes."""
        if set(message) != set(REQUEST_FIELDS):
            raise FrameError("a join request has other fields than expected")
        secret, signing, sealing, csr, proof = (text_field(message, name) for name in REQUEST_FIELDS)
        try:
            public = PublicIdentity(bytes.fromhex(signing), bytes.fromhex(sealing))
            return cls(bytes.fromhex(secret), public, csr.encode("ascii"), bytes.fromhex(proof))
        except ValueError:
            raise FrameError("a join request has fields that are not hexadecimal") from None

    def check_proof(self, server_fingerprint: bytes) -> None:
        """SealError unless the device holds its signing key and made this request for this server.

        Also when its sealing key is one that everybody can open.
        """
        data = proof_data(server_fingerprint, self.secret, self.public, self.csr_pem)
        self.public.verify(Purpose.JOIN, data, self.proof)
        self.public.seal(b"", b"")


def make_request(secret: bytes, identity: Identity, csr_pem: bytes, server_fingerprint: bytes) -> Request:
    """A request with its proof of possession; the fingerprint (32 bytes) binds it to this server."""
    data = proof_data(server_fingerprint, secret, identity.public, csr_pem)
    return Request(secret, identity.public, csr_pem, identity.sign(Purpose.JOIN, data))


def proof_data(server_fingerprint: bytes, secret: bytes, public: PublicIdentity, csr_pem: bytes) -> bytes:
    """What the proof signs: five fields of 32 bytes."""
    keys = public.signing_key + public.sealing_key
    return server_fingerprint + secret_hash(secret) + keys + hashlib.sha256(csr_pem).digest()


def text_field(message: dict[str, Any], name: str) -> str:
    """A field that must be there and be text; FrameError otherwise."""
    value = message.get(name)
    if not isinstance(value, str):
        raise FrameError(f"field {name!r} of a join message is {type(value).__name__}, text expected")
    return value


def number_field(message: dict[str, Any], name: str) -> float:
    """A field that must be there and be a number from 0 to 10^11; FrameError otherwise."""
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e11:
        raise FrameError(f"field {name!r} of a join message is no number from 0 to 1e11")
    return float(value)


def _broken(error: Exception) -> LinkError:
    text = "the other side took too long" if isinstance(error, TimeoutError) else f"connection broke: {error}"
    return LinkError(text)
