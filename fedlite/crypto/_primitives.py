"""The one place that calls `cryptography` to sign, verify, seal and open; raw key bytes go in and out here.

Ed25519 (RFC 8032) and HPKE in base mode (RFC 9180): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
ChaCha20-Poly1305. Whatever fails here fails as the same SealError, so that no caller can tell cases apart.
"""

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from fedlite.errors import SealError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
ENC_BYTES = 32  # the KEM's share in front of the ciphertext
TAG_BYTES = 16

SigningKey = Ed25519PrivateKey
SealingKey = X25519PrivateKey
Buffer = bytes | bytearray | memoryview

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def not_authentic() -> SealError:
    """The error of every cryptographic failure: one text, no cause."""
    return SealError("the message is not authentic")


def generate_keys() -> tuple[SigningKey, SealingKey]:
    """Fresh private keys from the operating system's generator."""
    return Ed25519PrivateKey.generate(), X25519PrivateKey.generate()


def load_keys(signing: bytes, sealing: bytes) -> tuple[SigningKey, SealingKey]:
    """Private keys from their raw 32 bytes each; ValueError for another length."""
    return Ed25519PrivateKey.from_private_bytes(signing), X25519PrivateKey.from_private_bytes(sealing)


def private_bytes(key: SigningKey | SealingKey) -> bytes:
    """The raw 32 bytes of a private key: for its file, and nothing else."""
    return key.private_bytes_raw()


def public_bytes(key: SigningKey | SealingKey) -> bytes:
    """The raw 32 bytes of a private key's public half."""
    return key.public_key().public_bytes_raw()


def sign(key: SigningKey, message: bytes) -> bytes:
    """An Ed25519 signature, 64 bytes; the same message gives the same bytes. (RFC 8032 §5.1.6)"""
    return key.sign(message)


def verify(public: bytes, message: bytes, signature: Buffer) -> None:
    """Raise SealError unless `signature` is that of `message` under the raw key. (RFC 8032 §5.1.7)"""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise not_authentic() from None


def hpke_seal(public: bytes, plaintext: Buffer, info: bytes) -> bytes:
    """KEM share (32) ‖ ciphertext ‖ tag (16); SealError for a public key of small order. (RFC 9180 §6.1)"""
    try:
        return SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), info)
    except ValueError:
        raise not_authentic() from None


def hpke_open(key: SealingKey, sealed: Buffer, info: bytes) -> bytes:
    """The plaintext, or SealError. (RFC 9180 §6.1)"""
    try:
        return SUITE.decrypt(sealed, key, info)
    except (InvalidTag, ValueError):
        raise not_authentic() from None
