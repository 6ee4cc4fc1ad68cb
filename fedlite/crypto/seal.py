"""Envelope v1: a payload sealed to one recipient, signed by its sender, bound to one run, round and model.

    header 138 ‖ HPKE share 32 ‖ ciphertext ‖ tag 16 ‖ Ed25519 signature 64        (all integers big-endian)

The whole header is HPKE's `info`; the signature covers SHA-256 of everything before it. There is no nonce
to choose: each envelope has its own KEM share. Byte offsets and the order of checks: docs/envelope.md.
"""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedlite.crypto import _primitives
from fedlite.crypto.identity import Identity, PublicIdentity, Purpose, sign_manifest, verify_manifest
from fedlite.errors import FrameError, ReplayError

__all__ = [
    "OVERHEAD_BYTES",
    "Context",
    "Opened",
    "check_fresh",
    "open_sealed",
    "seal",
    "sign_manifest",
    "verify_manifest",
]

MAGIC = b"FLE1"
SUITE_X25519 = 1
SEQ_BITS = 63  # in a field of 64: an SQLite integer holds every seq that passes
# magic, suite, kind, flags, run id, round, attempt, sender, recipient, model hash, spec hash, seq, length
_HEADER = struct.Struct("!4sBBH16sIH16s16s32s32sQI")
HEADER_BYTES = _HEADER.size
OVERHEAD_BYTES = HEADER_BYTES + _primitives.ENC_BYTES + _primitives.TAG_BYTES + _primitives.SIGNATURE_BYTES


@dataclass(frozen=True)
class Context:
    """What both sides must agree on before they look at a payload. FrameError when a field does not fit.

    `kind` 0 … 255 says what the payload is; `run_id` is 16 bytes, the hashes 32; `round_num` < 2^32,
    `attempt` < 2^16.
    """

    kind: int
    run_id: bytes
    round_num: int
    attempt: int
    model_hash: bytes
    spec_hash: bytes

    def __post_init__(self) -> None:
        for name, bits in (("kind", 8), ("round_num", 32), ("attempt", 16)):
            _check_unsigned(name, getattr(self, name), bits)
        for name, size in (("run_id", 16), ("model_hash", 32), ("spec_hash", 32)):
            if len(value := getattr(self, name)) != size:
                raise FrameError(f"{name} holds {len(value)} bytes, {size} expected")


@dataclass(frozen=True)
class Opened:
    """An authentic payload; `digest` is SHA-256 of the whole envelope."""

    payload: bytes
    sender: PublicIdentity
    seq: int
    digest: bytes


def seal(sender: Identity, recipient: PublicIdentity, payload: bytes, context: Context, seq: int) -> bytes:
    """An envelope of len(payload) + 250 bytes that only `recipient` can open.

    `seq` (0 … 2^63 − 1) rises with every new payload of this sender; a resend uses the same envelope.
    """
    _check_unsigned("seq", seq, SEQ_BITS)
    _check_unsigned("payload_bytes", len(payload), 32)
    header = _HEADER.pack(
        MAGIC,
        SUITE_X25519,
        context.kind,
        0,
        context.run_id,
        context.round_num,
        context.attempt,
        sender.public.key_id,
        recipient.key_id,
        context.model_hash,
        context.spec_hash,
        seq,
        len(payload),
    )
    sealed = recipient.seal(payload, header)
    body = hashlib.sha256(header)
    body.update(sealed)
    return b"".join((header, sealed, sender.sign(Purpose.ENVELOPE, body.digest())))


def open_sealed(
    recipient: Identity,
    envelope: bytes,
    context: Context,
    *,
    find_sender: Callable[[bytes], PublicIdentity | None],
    max_payload_bytes: int,
) -> Opened:
    """The payload, if every check passes; nothing is decrypted before the signature is verified.

    `find_sender` maps a key id (16 bytes) to an identity that may send now, else None.
    Raises FrameError (not an envelope v1, or over `max_payload_bytes`), ReplayError (made for another
    context; tested before the signature, so it may as well be forged) or SealError (anything else).
    """
    header, sender_id, seq = _check_header(recipient.public, envelope, context, max_payload_bytes)
    sender = find_sender(sender_id)
    if sender is None or sender.key_id != sender_id:
        raise _primitives.not_authentic()
    view = memoryview(envelope)
    signature = view[-_primitives.SIGNATURE_BYTES :]
    digest = hashlib.sha256(view[: -_primitives.SIGNATURE_BYTES])
    sender.verify(Purpose.ENVELOPE, digest.digest(), signature)
    payload = recipient.open(view[HEADER_BYTES : -_primitives.SIGNATURE_BYTES], header)
    digest.update(signature)  # goes on from the body's hash: the ciphertext is hashed once
    return Opened(payload, sender, seq, digest.digest())


def check_fresh(previous: tuple[int, bytes] | None, opened: Opened) -> Literal["new", "resend"]:
    """Whether an envelope is new or the last one again; `previous` is its sender's last (seq, digest).

    ReplayError for a lower seq, and for two different envelopes under one seq (equivocation).
    """
    if previous is None or opened.seq > previous[0]:
        return "new"
    if opened.seq < previous[0]:
        raise ReplayError(f"seq {opened.seq} came after {previous[0]}; it can only rise")
    if opened.digest != previous[1]:
        raise ReplayError(f"two different envelopes carry seq {opened.seq} (equivocation)")
    return "resend"


def _check_header(
    recipient: PublicIdentity, envelope: bytes, context: Context, max_payload_bytes: int
) -> tuple[bytes, bytes, int]:
    """(header, sender's key id, seq) after all checks that need no cryptography."""
    if len(envelope) < OVERHEAD_BYTES:
        raise FrameError(f"envelope holds {len(envelope)} bytes, at least {OVERHEAD_BYTES} expected")
    header = bytes(envelope[:HEADER_BYTES])
    magic, suite, kind, flags, run_id, round_num, attempt, *rest = _HEADER.unpack(header)
    sender_id, recipient_id, model_hash, spec_hash, seq, payload_bytes = rest
    if (magic, suite, flags) != (MAGIC, SUITE_X25519, 0):
        raise FrameError(
            f"envelope has magic {magic!r}, suite {suite}, flags {flags}; "
            f"{MAGIC!r}, {SUITE_X25519}, 0 expected"
        )
    _check_unsigned("seq", seq, SEQ_BITS)
    if payload_bytes > max_payload_bytes:
        raise FrameError(f"envelope claims a payload of {payload_bytes} bytes, limit {max_payload_bytes}")
    if len(envelope) != payload_bytes + OVERHEAD_BYTES:
        raise FrameError(f"envelope holds {len(envelope)} bytes, {payload_bytes + OVERHEAD_BYTES} expected")
    _check_context(Context(kind, run_id, round_num, attempt, model_hash, spec_hash), context)
    if recipient_id != recipient.key_id:
        raise _primitives.not_authentic()
    return header, sender_id, seq


def _check_context(claimed: Context, expected: Context) -> None:
    for name in ("kind", "run_id", "round_num", "attempt", "model_hash", "spec_hash"):
        got, want = getattr(claimed, name), getattr(expected, name)
        if got != want:
            raise ReplayError(f"envelope claims {name} {_short(got)}, {_short(want)} expected")


def _short(value: int | bytes) -> str:
    return str(value) if isinstance(value, int) else value[:4].hex() + "…"


def _check_unsigned(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise FrameError(f"{name} is {value}, 0 … 2^{bits} − 1 expected")
