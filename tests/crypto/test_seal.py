"""Envelopes: size, binding to context and people, order of checks, replay, and mutations by the thousand."""

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.crypto.identity import Identity, Purpose
from fedlite.crypto.seal import (
    OVERHEAD_BYTES,
    Context,
    check_fresh,
    open_sealed,
    seal,
    sign_manifest,
    verify_manifest,
)
from fedlite.errors import FrameError, PeerError, ReplayError, SealError
from tests.crypto.people import CONTEXT, Pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


@settings(max_examples=30, deadline=None)
@given(payload=st.binary(max_size=5000), seq=st.integers(0, 2**63 - 1))
def test_round_trip_and_exact_size(pair: Pair, payload: bytes, seq: int) -> None:
    envelope = pair.seal(payload, seq=seq)
    assert len(envelope) == len(payload) + 250
    opened = pair.open(envelope)
    assert (opened.payload, opened.seq, opened.sender) == (payload, seq, pair.device.public)
    assert opened.digest == hashlib.sha256(envelope).digest()


def test_overhead_is_250_bytes() -> None:
    assert OVERHEAD_BYTES == 138 + 32 + 16 + 64 == 250


def test_two_envelopes_of_one_payload_share_no_ciphertext(pair: Pair) -> None:
    first, second = pair.seal(bytes(64)), pair.seal(bytes(64))
    assert first[:138] == second[:138]
    assert first[138:170] != second[138:170]
    assert first[170:-64] != second[170:-64]


def test_the_payload_cannot_be_seen(pair: Pair) -> None:
    assert b"all my photographs" not in pair.seal(b"all my photographs" * 20)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 2},
        {"run_id": b"x" * 16},
        {"round_num": 2},
        {"attempt": 1},
        {"model_hash": b"x" * 32},
        {"spec_hash": b"x" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_context_is_refused(pair: Pair, change: dict[str, object]) -> None:
    with pytest.raises(ReplayError, match=next(iter(change))):
        pair.open(pair.seal(), context=dataclasses.replace(CONTEXT, **change))


def test_context_is_checked_before_anything_costly(pair: Pair) -> None:
    """An envelope of another round with a broken signature is of another round: no signature was verified."""
    stale = pair.seal(context=dataclasses.replace(CONTEXT, round_num=2))
    with pytest.raises(ReplayError):
        pair.open(stale[:-1] + bytes([stale[-1] ^ 1]))


def test_the_roster_is_asked_before_the_signature(pair: Pair) -> None:
    asked = []
    envelope = pair.seal()
    with pytest.raises(SealError):
        pair.open(envelope[:-1] + bytes([envelope[-1] ^ 1]), find_sender=asked.append)
    assert asked == [pair.device.public.key_id]


def test_wrong_recipient(pair: Pair) -> None:
    other = Identity.generate()
    envelope = seal(pair.device, other.public, b"payload", CONTEXT, 1)
    with pytest.raises(SealError):
        pair.open(envelope)
    opened = open_sealed(other, envelope, CONTEXT, find_sender=pair.find, max_payload_bytes=100)
    assert opened.payload == b"payload"


def test_unknown_and_revoked_senders() -> None:
    pair = Pair()
    envelope = pair.seal()
    pair.open(envelope)
    pair.revoked.add(pair.device.public.key_id)
    with pytest.raises(SealError):
        pair.open(envelope)
    with pytest.raises(SealError):
        pair.open(seal(Identity.generate(), pair.server.public, b"payload", CONTEXT, 1))


def test_a_roster_that_answers_with_someone_else_is_not_believed(pair: Pair) -> None:
    """Sealed in another's name and signed by the device, whose key the roster gives for that name."""
    liar = Identity(pair.device._signing, pair.device._sealing)
    liar.public = Identity.generate().public
    envelope = seal(liar, pair.server.public, b"payload", CONTEXT, 1)
    with pytest.raises(SealError):
        pair.open(envelope, find_sender=lambda _: pair.device.public)


def test_a_server_cannot_pass_on_an_envelope_sealed_to_it(pair: Pair) -> None:
    """Opened and sealed again under its own name it is the server's, under the device's it is a forgery."""
    third = Identity.generate()
    payload = pair.open(pair.seal()).payload
    forged = bytearray(seal(pair.server, third.public, payload, CONTEXT, 1))
    forged[30:46] = pair.device.public.key_id
    with pytest.raises(SealError):
        open_sealed(third, bytes(forged), CONTEXT, find_sender=pair.find, max_payload_bytes=100)


def test_size_cap(pair: Pair) -> None:
    envelope = pair.seal(bytes(101))
    with pytest.raises(FrameError, match="101 bytes, limit 100"):
        pair.open(envelope, limit=100)
    assert pair.open(envelope, limit=101).payload == bytes(101)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 256},
        {"kind": -1},
        {"round_num": 2**32},
        {"attempt": 2**16},
        {"run_id": b"short"},
        {"model_hash": b""},
        {"spec_hash": bytes(33)},
    ],
    ids=str,
)
def test_a_context_that_fits_no_header_cannot_be_made(change: dict[str, object]) -> None:
    with pytest.raises(FrameError, match=next(iter(change))):
        dataclasses.replace(CONTEXT, **change)


@pytest.mark.parametrize("seq", [-1, 2**63, 2**64])
def test_seq_out_of_range(pair: Pair, seq: int) -> None:
    with pytest.raises(FrameError, match="seq"):
        pair.seal(seq=seq)


def test_check_fresh(pair: Pair) -> None:
    first, again, second = pair.seal(b"a", seq=5), pair.seal(b"b", seq=5), pair.seal(b"c", seq=6)
    opened = pair.open(first)
    last = (opened.seq, opened.digest)
    assert check_fresh(None, opened) == "new"
    assert check_fresh(last, pair.open(first)) == "resend"
    assert check_fresh(last, pair.open(second)) == "new"
    with pytest.raises(ReplayError, match="equivocation"):
        check_fresh(last, pair.open(again))
    newest = pair.open(second)
    with pytest.raises(ReplayError, match="can only rise"):
        check_fresh((newest.seq, newest.digest), opened)


def test_manifest_signatures(pair: Pair) -> None:
    signature = sign_manifest(pair.server, b"offer")
    verify_manifest(pair.server.public, b"offer", signature)
    for public, data, shown in [
        (pair.server.public, b"offer ", signature),
        (pair.device.public, b"offer", signature),
        (pair.server.public, b"offer", signature[:-1]),
        (pair.server.public, b"offer", b""),
    ]:
        with pytest.raises(SealError):
            verify_manifest(public, data, shown)


def test_no_signature_serves_two_purposes(pair: Pair) -> None:
    envelope = pair.seal()
    with pytest.raises(SealError):
        verify_manifest(pair.device.public, hashlib.sha256(envelope[:-64]).digest(), envelope[-64:])


def mutated(envelope: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """One of: bits flipped, a byte set, cut, extended, a stretch repeated, a splice of two envelopes, noise."""
    data = bytearray(envelope)
    at = int(rng.integers(len(data)))
    choice = rng.integers(8)
    if choice <= 1:
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    elif choice == 2:
        data[at] = int(rng.integers(256))
    elif choice == 3:
        del data[at:]
    elif choice == 4:
        data += rng.bytes(int(rng.integers(1, 40)))
    elif choice == 5:
        data[at : at + 8] = data[at : at + 8] * 2
    elif choice == 6:
        other = others[int(rng.integers(len(others)))]
        end = at + int(rng.integers(1, 70))
        data[at:end] = other[at:end]
    else:
        data[at : at + 16] = rng.bytes(len(data[at : at + 16]))
    return bytes(data)


def test_fifty_thousand_mutations_are_all_refused(pair: Pair) -> None:
    """Nothing that differs from a sealed envelope opens, and nothing raises but a PeerError."""
    rng = np.random.default_rng(2024)
    originals = [pair.seal(bytes(size), seq=size) for size in (0, 1, 40, 200)]
    refused: dict[str, int] = {}
    while sum(refused.values()) < 50_000:
        attempt = mutated(originals[int(rng.integers(4))], originals, rng)
        if attempt in originals:
            continue
        with pytest.raises(PeerError) as caught:
            pair.open(attempt, limit=300)
        name = type(caught.value).__name__
        refused[name] = refused.get(name, 0) + 1
    assert min(refused[name] for name in ("FrameError", "ReplayError", "SealError")) > 1000


def test_mutations_signed_by_a_member_open_only_as_that_member(pair: Pair) -> None:
    """A member may sign any bytes; only what it sealed itself comes out, so a mutation fails at the tag."""
    rng = np.random.default_rng(7)
    envelope = pair.seal(bytes(100))
    for _ in range(1000):
        data = bytearray(envelope[:-64])
        data[int(rng.integers(126, len(data)))] ^= 1 << int(rng.integers(8))
        body = hashlib.sha256(data).digest()
        with pytest.raises((SealError, FrameError)):
            pair.open(bytes(data) + pair.device.sign(Purpose.ENVELOPE, body))


def test_context_is_hashable_and_comparable() -> None:
    assert Context(1, b"r" * 16, 3, 0, b"m" * 32, b"s" * 32) == CONTEXT
    assert len({CONTEXT, dataclasses.replace(CONTEXT)}) == 1
