"""Who someone is: an Ed25519 key that signs and an X25519 key that others seal to.

Private halves are made on the device, live in one file of mode 0600, and are never shown.
"""

import enum
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedlite.crypto import _primitives
from fedlite.crypto.files import read_private, write_private
from fedlite.errors import FrameError, StateError

KEY_ID_BYTES = 16
FORMAT = "fedlite identity 1"


class Purpose(enum.Enum):
    """What a signature is for. The label is signed in front of the data, so none passes for another.

    Every label ends in its only NUL byte: no label is the beginning of another.
    """

    ENVELOPE = b"fedlite envelope v1\0"
    MANIFEST = b"fedlite manifest v1\0"
    JOIN = b"fedlite join v1\0"


@dataclass(frozen=True)
class PublicIdentity:
    """Raw public keys, 32 bytes each; FrameError for another length."""

    signing_key: bytes
    sealing_key: bytes

    def __post_init__(self) -> None:
        for name, key in (("signing", self.signing_key), ("sealing", self.sealing_key)):
            if len(key) != _primitives.KEY_BYTES:
                raise FrameError(f"a {name} key holds {len(key)} bytes, {_primitives.KEY_BYTES} expected")

    @cached_property
    def key_id(self) -> bytes:
        """The first 16 bytes of SHA-256 over the signing key."""
        return hashlib.sha256(self.signing_key).digest()[:KEY_ID_BYTES]

    @property
    def client_id(self) -> str:
        """The key id as 32 hex digits."""
        return self.key_id.hex()

    @property
    def node_id(self) -> int:
        """Flower's node id: 1 … 2^63 − 1, from the key id's first 8 bytes."""
        return (int.from_bytes(self.key_id[:8], "big") & (2**63 - 1)) or 1

    def seal(self, payload: _primitives.Buffer, info: bytes) -> bytes:
        """`payload` + 48 bytes that only this identity opens, under the same `info`; fresh keys each time.

        SealError when the sealing key is of small order, so that anyone could open.
        """
        return _primitives.hpke_seal(self.sealing_key, payload, info)

    def verify(self, purpose: Purpose, data: bytes, signature: _primitives.Buffer) -> None:
        """Raise SealError unless this identity signed `data` for `purpose`."""
        _primitives.verify(self.signing_key, purpose.value + data, signature)


class Identity:
    """Both private keys. Made by `generate` or `load`, kept by `save`; its repr shows the key id only."""

    __slots__ = ("_sealing", "_signing", "public")

    def __init__(self, signing: _primitives.SigningKey, sealing: _primitives.SealingKey) -> None:
        self._signing = signing
        self._sealing = sealing
        self.public = PublicIdentity(_primitives.public_bytes(signing), _primitives.public_bytes(sealing))

    def __repr__(self) -> str:
        return f"Identity({self.public.client_id})"

    @classmethod
    def generate(cls) -> "Identity":
        """A new identity from the operating system's generator."""
        return cls(*_primitives.generate_keys())

    @classmethod
    def load(cls, path: Path) -> "Identity":
        """Read what `save` wrote.

        StateError when missing or damaged; SettingsError, naming chmod 600, when others may read it.
        """
        raw = read_private(path)
        try:
            held = json.loads(raw)
            private = [bytes.fromhex(held[name]) for name in ("signing_key", "sealing_key")]
            identity = cls(*_primitives.load_keys(*private))
            intact = held == identity._record()
        except (ValueError, KeyError, TypeError, RecursionError):
            intact = False
        if not intact:
            raise StateError(f"{path} is not an intact {FORMAT!r} file")
        return identity

    def save(self, path: Path) -> None:
        """Write to a new file of mode 0600; StateError when it exists, StorageError when the disk refuses."""
        write_private(path, json.dumps(self._record(), indent=1).encode())

    def sign(self, purpose: Purpose, data: bytes) -> bytes:
        """A signature of 64 bytes over the purpose's label and `data`."""
        return _primitives.sign(self._signing, purpose.value + data)

    def open(self, sealed: _primitives.Buffer, info: bytes) -> bytes:
        """The plaintext that was sealed to this identity under `info`, or SealError."""
        return _primitives.hpke_open(self._sealing, sealed, info)

    def _record(self) -> dict[str, str]:
        """The file's content; the public halves are there to find damage in the private ones."""
        return {
            "format": FORMAT,
            "signing_key": _primitives.private_bytes(self._signing).hex(),
            "sealing_key": _primitives.private_bytes(self._sealing).hex(),
            "public_signing_key": self.public.signing_key.hex(),
            "public_sealing_key": self.public.sealing_key.hex(),
        }


def sign_manifest(identity: Identity, data: bytes) -> bytes:
    """The server's signature, 64 bytes, on what it offers to the devices."""
    return identity.sign(Purpose.MANIFEST, data)


def verify_manifest(public: PublicIdentity, data: bytes, signature: bytes) -> None:
    """Raise SealError unless the server signed exactly `data` as a manifest."""
    public.verify(Purpose.MANIFEST, data, signature)
