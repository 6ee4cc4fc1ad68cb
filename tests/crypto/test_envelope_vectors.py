"""The frozen vectors of envelope v1, good and bad, against both readers."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedlite import errors
from fedlite.crypto import _primitives
from fedlite.crypto.identity import Identity, PublicIdentity
from fedlite.crypto.seal import Context, Opened, open_sealed
from tests.vectors.envelope_v1 import make_vectors, reference

FOLDER = Path(make_vectors.__file__).parent
GOOD = json.loads((FOLDER / "good.json").read_text())
BAD = json.loads((FOLDER / "bad.json").read_text())


def named(document: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("vector", document["vectors"], ids=lambda v: v["name"])


def context_of(document: dict[str, Any], vector: dict[str, Any]) -> dict[str, Any]:
    raw = vector.get("context", document["context"])
    return {key: bytes.fromhex(value) if isinstance(value, str) else value for key, value in raw.items()}


def open_vector(document: dict[str, Any], vector: dict[str, Any]) -> Opened:
    private = document["recipient_private"]
    keys = _primitives.load_keys(*(bytes.fromhex(private[k]) for k in ("signing_key", "sealing_key")))
    members = [PublicIdentity(**{k: bytes.fromhex(v) for k, v in m.items()}) for m in document["members"]]
    return open_sealed(
        Identity(*keys),
        bytes.fromhex(vector["envelope"]),
        Context(**context_of(document, vector)),
        find_sender={member.key_id: member for member in members}.get,
        max_payload_bytes=document["max_payload_bytes"],
    )


def reference_result(document: dict[str, Any], vector: dict[str, Any]) -> str | tuple[bytes, int]:
    members = [{k: bytes.fromhex(v) for k, v in m.items()} for m in document["members"]]
    return reference.failing_step(
        bytes.fromhex(vector["envelope"]),
        context_of(document, vector),
        {k: bytes.fromhex(v) for k, v in document["recipient_private"].items()},
        {reference.key_id(member): member["signing_key"] for member in members},
        document["max_payload_bytes"],
    )


@named(GOOD)
def test_good(vector: dict[str, Any]) -> None:
    opened = open_vector(GOOD, vector)
    assert opened.payload.hex() == vector["payload"]
    assert opened.seq == vector["seq"]
    assert reference_result(GOOD, vector) == (opened.payload, opened.seq)


@named(BAD)
def test_bad(vector: dict[str, Any]) -> None:
    assert reference_result(BAD, vector) == vector["step"]
    with pytest.raises(errors.PeerError) as caught:
        open_vector(BAD, vector)
    assert type(caught.value).__name__ == vector["error"]


def test_every_cryptographic_failure_reads_the_same() -> None:
    texts = set()
    for vector in BAD["vectors"]:
        if vector["error"] == "SealError":
            with pytest.raises(errors.SealError) as caught:
                open_vector(BAD, vector)
            assert caught.value.__cause__ is None
            texts.add(str(caught.value))
    assert len(texts) == 1


def test_a_context_error_does_not_claim_authenticity() -> None:
    for vector in BAD["vectors"]:
        if vector["error"] == "ReplayError":
            with pytest.raises(errors.ReplayError, match="claims"):
                open_vector(BAD, vector)


def test_every_step_has_a_vector() -> None:
    steps = {vector["step"] for vector in BAD["vectors"]}
    assert steps == {
        "length",
        "format",
        "size cap",
        "exact length",
        "context",
        "recipient",
        "roster",
        "signature",
        "decryption",
    }


def test_the_generator_still_writes_the_frozen_files() -> None:
    """The reference is deterministic, so files and generator cannot drift apart."""
    assert make_vectors.documents() == {"good.json": GOOD, "bad.json": BAD}
