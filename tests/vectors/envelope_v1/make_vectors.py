"""Writes good.json and bad.json:  python -m tests.vectors.envelope_v1.make_vectors

All keys are test keys, SHA-256 of a sentence; envelopes come from reference.py, not from fedlite. The files pin
format v1: after a release they never change, and a new format gets a new folder.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.vectors.envelope_v1 import reference

HERE = Path(__file__).resolve().parent
MAX_PAYLOAD_BYTES = 4096
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's base point, RFC 8032 §5.1


def digest(text: str) -> bytes:
    return hashlib.sha256(f"fedlite envelope v1 vectors: {text}".encode()).digest()


def person(name: str) -> dict[str, bytes]:
    return {"signing_key": digest(f"{name} signs"), "sealing_key": digest(f"{name} opens")}


SERVER, DEVICE, MEMBER, STRANGER = (person(name) for name in ("server", "device", "member", "stranger"))
CONTEXT: dict[str, Any] = {
    "kind": 1,
    "run_id": digest("run")[:16],
    "round_num": 7,
    "attempt": 2,
    "model_hash": digest("model"),
    "spec_hash": digest("spec"),
}
PAYLOAD = bytes(range(100))


def fields(payload: bytes = PAYLOAD, **changes: Any) -> dict[str, Any]:
    return {
        "magic": b"FLE1",
        "suite": 1,
        "flags": 0,
        **CONTEXT,
        "sender": reference.key_id(reference.public(DEVICE)),
        "recipient": reference.key_id(reference.public(SERVER)),
        "seq": 41,
        "payload_bytes": len(payload),
        **changes,
    }


def body(payload: bytes = PAYLOAD, to: dict[str, bytes] = SERVER, **changes: Any) -> bytes:
    """Header and sealed payload, without the signature."""
    header = reference.pack(fields(payload, **changes))
    ephemeral = digest(f"ephemeral {header.hex()} {payload.hex()}")
    return header + reference.hpke_seal(reference.public(to)["sealing_key"], header, payload, ephemeral)


def signed(unsigned: bytes, by: dict[str, bytes] = DEVICE, **options: Any) -> bytes:
    return unsigned + reference.sign(by, unsigned, **options)


def flip(data: bytes, at: int, bit: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def good() -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    yield "typical", signed(body()), {"payload": PAYLOAD, "seq": 41}
    yield "empty payload", signed(body(b"")), {"payload": b"", "seq": 41}
    yield "one byte", signed(body(b"\xff")), {"payload": b"\xff", "seq": 41}
    largest = digest("largest") * (MAX_PAYLOAD_BYTES // 32)
    yield "largest payload allowed", signed(body(largest)), {"payload": largest, "seq": 41}
    extremes = {"kind": 255, "round_num": 2**32 - 1, "attempt": 2**16 - 1}
    top = signed(body(seq=2**63 - 1, **extremes))
    yield "largest numbers", top, {"payload": PAYLOAD, "seq": 2**63 - 1, "context": CONTEXT | extremes}
    zeros = {"kind": 0, "run_id": bytes(16), "round_num": 0, "attempt": 0, "model_hash": bytes(32)}
    zeros["spec_hash"] = bytes(32)
    yield (
        "smallest numbers",
        signed(body(seq=0, **zeros)),
        {
            "payload": PAYLOAD,
            "seq": 0,
            "context": CONTEXT | zeros,
        },
    )


def bad_form(whole: bytes) -> Iterator[tuple[str, bytes, str, str]]:
    yield "empty", b"", "length", "FrameError"
    yield "one byte short of the overhead", whole[:249], "length", "FrameError"
    yield "other magic", signed(body(magic=b"FLE2")), "format", "FrameError"
    yield "suite 0", signed(body(suite=0)), "format", "FrameError"
    yield "suite 2", signed(body(suite=2)), "format", "FrameError"
    yield "low flag set", signed(body(flags=1)), "format", "FrameError"
    yield "seq of 64 bits", signed(body(seq=2**63)), "format", "FrameError"
    yield "high flag set", signed(body(flags=0x8000)), "format", "FrameError"
    yield "one byte over the limit", signed(body(bytes(MAX_PAYLOAD_BYTES + 1))), "size cap", "FrameError"
    yield "claims 4 GiB", signed(body(payload_bytes=2**32 - 1)), "size cap", "FrameError"
    yield "last byte missing", whole[:-1], "exact length", "FrameError"
    yield "one byte more", whole + b"\0", "exact length", "FrameError"
    yield "claims one byte less", signed(body(payload_bytes=99)), "exact length", "FrameError"
    yield "claims one byte more", signed(body(payload_bytes=101)), "exact length", "FrameError"


def bad_context() -> Iterator[tuple[str, bytes, str, str]]:
    for name, value in CONTEXT.items():
        other = value + 1 if isinstance(value, int) else flip(value, len(value) - 1)
        yield f"other {name}", signed(body(**{name: other})), "context", "ReplayError"
    yield "round before", signed(body(round_num=6)), "context", "ReplayError"


def bad_people(whole: bytes) -> Iterator[tuple[str, bytes, str, str]]:
    member, stranger = (reference.key_id(reference.public(keys)) for keys in (MEMBER, STRANGER))
    server = reference.key_id(reference.public(SERVER))
    yield "for another member", signed(body(to=MEMBER, recipient=member)), "recipient", "SealError"
    yield "unknown sender", signed(body(sender=stranger), STRANGER), "roster", "SealError"
    yield "server's own id as sender", signed(body(sender=server), SERVER), "roster", "SealError"
    yield "signed by a stranger", signed(body(), STRANGER), "signature", "SealError"
    yield "signed by another member", signed(body(), MEMBER), "signature", "SealError"
    yield "sealed to another key", signed(body(to=MEMBER)), "decryption", "SealError"
    renamed = whole[:30] + member + whole[46:-64]
    yield "stripped, renamed and signed by another member", signed(renamed, MEMBER), "decryption", "SealError"


def bad_cryptography(whole: bytes) -> Iterator[tuple[str, bytes, str, str]]:
    unsigned, signature = whole[:-64], whole[-64:]
    for name, at in (("seq", 133), ("share", 138), ("ciphertext", 170), ("tag", 285)):
        yield f"bit of the {name} flipped", flip(whole, at), "signature", "SealError"
        yield f"bit of the {name} flipped, signed", signed(flip(unsigned, at)), "decryption", "SealError"
    yield "bit of the signature flipped", flip(whole, len(whole) - 1), "signature", "SealError"
    yield "signature of zeros", unsigned + bytes(64), "signature", "SealError"
    s = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    malleable = unsigned + signature[:32] + s.to_bytes(32, "little")
    yield "signature with S + L", malleable, "signature", "SealError"
    manifest = signed(unsigned, label=b"fedlite manifest v1\0")
    yield "signature of a manifest", manifest, "signature", "SealError"
    small_order = unsigned[:138] + bytes(32) + unsigned[170:]
    yield "share of small order, signed", signed(small_order), "decryption", "SealError"
    other = body(bytes(100))
    yield (
        "header of another envelope, signed",
        signed(other[:133] + b"\x09" + other[134:]),
        ("decryption"),
        "SealError",
    )


def plain(value: Any) -> Any:
    """Bytes as hex, all the way down."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value.hex() if isinstance(value, bytes) else value


def documents() -> dict[str, dict[str, Any]]:
    """File name → content."""
    members = [plain(reference.public(keys)) for keys in (DEVICE, MEMBER)]
    common = {
        "format": "fedlite envelope v1",
        "recipient_private": plain(SERVER),
        "sender_private": plain(DEVICE),
        "members": members,
        "context": plain(CONTEXT),
        "max_payload_bytes": MAX_PAYLOAD_BYTES,
    }
    whole = signed(body())
    bad = [*bad_form(whole), *bad_context(), *bad_people(whole), *bad_cryptography(whole)]
    return {
        "good.json": common
        | {"vectors": [{"name": n, **plain(more), "envelope": e.hex()} for n, e, more in good()]},
        "bad.json": common
        | {"vectors": [{"name": n, "step": s, "error": x, "envelope": e.hex()} for n, e, s, x in bad]},
    }


if __name__ == "__main__":
    for name, document in documents().items():
        (HERE / name).write_text(json.dumps(document, indent=1) + "\n")
