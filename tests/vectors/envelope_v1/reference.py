"""A second writer and reader of envelope v1, made from docs/envelope.md and RFC 9180 alone.

It shares no code with fedlite: HPKE is spelled out over X25519, HMAC and ChaCha20-Poly1305, and the header is
cut by offsets. It takes the KEM's ephemeral key as an argument, so its envelopes are the same on every run.
"""

import hashlib
import hmac

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEM_SUITE = b"KEM" + bytes.fromhex("0020")  # DHKEM(X25519, HKDF-SHA256)
HPKE_SUITE = b"HPKE" + bytes.fromhex("002000010003")  # … HKDF-SHA256, ChaCha20-Poly1305
LABEL = b"fedlite envelope v1\0"
FIELDS = (  # name, bytes: in the order of the header
    ("magic", 4),
    ("suite", 1),
    ("kind", 1),
    ("flags", 2),
    ("run_id", 16),
    ("round_num", 4),
    ("attempt", 2),
    ("sender", 16),
    ("recipient", 16),
    ("model_hash", 32),
    ("spec_hash", 32),
    ("seq", 8),
    ("payload_bytes", 4),
)
CONTEXT = ("kind", "run_id", "round_num", "attempt", "model_hash", "spec_hash")


def extract(salt: bytes, suite: bytes, label: bytes, ikm: bytes) -> bytes:
    """RFC 9180 §4, LabeledExtract."""
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def expand(prk: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """RFC 9180 §4, LabeledExpand, for at most 32 bytes: one HKDF block (RFC 5869 §2.3)."""
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labelled + b"\x01", "sha256")[:length]


def key_schedule(dh: bytes, enc: bytes, recipient: bytes, info: bytes) -> tuple[bytes, bytes]:
    """(key, nonce of the first message) in base mode: RFC 9180 §4.1 and §5.1."""
    eae_prk = extract(b"", KEM_SUITE, b"eae_prk", dh)
    shared = expand(eae_prk, KEM_SUITE, b"shared_secret", enc + recipient, 32)
    psk_id_hash = extract(b"", HPKE_SUITE, b"psk_id_hash", b"")
    info_hash = extract(b"", HPKE_SUITE, b"info_hash", info)
    context = b"\x00" + psk_id_hash + info_hash
    secret = extract(shared, HPKE_SUITE, b"secret", b"")
    key = expand(secret, HPKE_SUITE, b"key", context, 32)
    return key, expand(secret, HPKE_SUITE, b"base_nonce", context, 12)


def hpke_seal(recipient: bytes, info: bytes, payload: bytes, ephemeral: bytes, aad: bytes = b"") -> bytes:
    key = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = key.public_key().public_bytes_raw()
    dh = key.exchange(X25519PublicKey.from_public_bytes(recipient))
    aead_key, nonce = key_schedule(dh, enc, recipient, info)
    return enc + ChaCha20Poly1305(aead_key).encrypt(nonce, payload, aad)


def hpke_open(private: bytes, info: bytes, sealed: bytes, aad: bytes = b"") -> bytes:
    """Raises InvalidTag or ValueError (a share of small order)."""
    key = X25519PrivateKey.from_private_bytes(private)
    enc = sealed[:32]
    dh = key.exchange(X25519PublicKey.from_public_bytes(enc))
    aead_key, nonce = key_schedule(dh, enc, key.public_key().public_bytes_raw(), info)
    return ChaCha20Poly1305(aead_key).decrypt(nonce, sealed[32:], aad)


def public(private: dict[str, bytes]) -> dict[str, bytes]:
    return {
        "signing_key": Ed25519PrivateKey.from_private_bytes(private["signing_key"])
        .public_key()
        .public_bytes_raw(),
        "sealing_key": X25519PrivateKey.from_private_bytes(private["sealing_key"])
        .public_key()
        .public_bytes_raw(),
    }


def key_id(keys: dict[str, bytes]) -> bytes:
    return hashlib.sha256(keys["signing_key"]).digest()[:16]


def pack(fields: dict[str, int | bytes]) -> bytes:
    values = ((fields[name], size) for name, size in FIELDS)
    return b"".join(v if isinstance(v, bytes) else v.to_bytes(size, "big") for v, size in values)


def unpack(header: bytes) -> dict[str, bytes]:
    fields, at = {}, 0
    for name, size in FIELDS:
        fields[name], at = header[at : at + size], at + size
    return fields


def sign(private: dict[str, bytes], body: bytes, label: bytes = LABEL) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private["signing_key"]).sign(
        label + hashlib.sha256(body).digest()
    )


def failing_form(envelope: bytes, max_payload_bytes: int) -> str | None:
    """Steps 1 to 4."""
    if len(envelope) < 250:
        return "length"
    fields = unpack(envelope[:138])
    if (fields["magic"], fields["suite"], fields["flags"]) != (b"FLE1", b"\x01", b"\0\0"):
        return "format"
    if fields["seq"] >= bytes.fromhex("8000000000000000"):
        return "format"
    size = int.from_bytes(fields["payload_bytes"], "big")
    if size > max_payload_bytes:
        return "size cap"
    return None if len(envelope) == 138 + 32 + size + 16 + 64 else "exact length"


def failing_claim(
    header: bytes, context: dict[str, int | bytes], recipient: bytes, roster: dict[bytes, bytes]
) -> str | None:
    """Steps 5 to 7."""
    fields, widths = unpack(header), dict(FIELDS)
    wanted = {k: v if isinstance(v, bytes) else v.to_bytes(widths[k], "big") for k, v in context.items()}
    if any(fields[name] != wanted[name] for name in CONTEXT):
        return "context"
    if fields["recipient"] != recipient:
        return "recipient"
    return None if fields["sender"] in roster else "roster"


def failing_step(
    envelope: bytes,
    context: dict[str, int | bytes],
    recipient: dict[str, bytes],
    roster: dict[bytes, bytes],
    max_payload_bytes: int,
) -> str | tuple[bytes, int]:
    """The step of docs/envelope.md that refuses, or (payload, seq). `roster`: key id → signing key."""
    header, body, signature = envelope[:138], envelope[:-64], envelope[-64:]
    early = failing_form(envelope, max_payload_bytes)
    early = early or failing_claim(header, context, key_id(public(recipient)), roster)
    if early:
        return early
    fields = unpack(header)
    try:
        signer = Ed25519PublicKey.from_public_bytes(roster[fields["sender"]])
        signer.verify(signature, LABEL + hashlib.sha256(body).digest())
    except InvalidSignature:
        return "signature"
    try:
        payload = hpke_open(recipient["sealing_key"], header, body[138:])
    except (InvalidTag, ValueError):
        return "decryption"
    return payload, int.from_bytes(fields["seq"], "big")
