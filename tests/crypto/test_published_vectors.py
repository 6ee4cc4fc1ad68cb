"""RFC 9180 (HPKE) and RFC 8032 (Ed25519): the vectors that `cryptography_vectors` ships."""

import json
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.hazmat.bindings._rust import openssl

from fedlite.crypto import _primitives
from fedlite.errors import SealError
from tests.vectors.envelope_v1 import reference

PUBLISHED = Path(cryptography_vectors.__path__[0])
BASE_MODE, X25519, HKDF_SHA256, CHACHA20_POLY1305 = 0, 0x0020, 0x0001, 0x0003


def hpke_vector() -> dict[str, object]:
    """RFC 9180 A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode."""
    wanted = (BASE_MODE, X25519, HKDF_SHA256, CHACHA20_POLY1305)
    every = json.loads((PUBLISHED / "HPKE/test-vectors.json").read_text())
    [found] = [v for v in every if (v["mode"], v["kem_id"], v["kdf_id"], v["aead_id"]) == wanted]
    first = found["encryptions"][0]
    chosen = {key: bytes.fromhex(found[key]) for key in ("info", "skRm", "pkRm", "skEm", "enc")}
    return chosen | {key: bytes.fromhex(first[key]) for key in ("aad", "pt", "ct")}


def test_the_vector_is_the_one_of_the_rfc() -> None:
    """The first and last bytes as printed in RFC 9180 A.2.1, so that an edited package is noticed."""
    vector = hpke_vector()
    assert vector["info"] == b"Ode on a Grecian Urn"
    assert vector["pt"] == b"Beauty is truth, truth beauty"
    assert vector["enc"].hex().startswith("1afa08d3dec047a6")
    assert vector["ct"].hex().startswith("1c5250d8034ec2b7")


def test_our_suite_opens_the_hpke_vector() -> None:
    vector = hpke_vector()
    _, key = _primitives.load_keys(bytes(32), vector["skRm"])
    assert _primitives.public_bytes(key) == vector["pkRm"]
    sealed = vector["enc"] + vector["ct"]
    # The vectors bind associated data, which the public one-shot API leaves empty; hence its inner function.
    opened = openssl.hpke._decrypt_with_aad(_primitives.SUITE, sealed, key, vector["info"], vector["aad"])
    assert opened == vector["pt"]


def test_the_reference_writes_the_hpke_vector() -> None:
    vector = hpke_vector()
    sealed = reference.hpke_seal(
        vector["pkRm"], vector["info"], vector["pt"], vector["skEm"], aad=vector["aad"]
    )
    assert sealed == vector["enc"] + vector["ct"]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000])
def test_the_reference_and_our_suite_open_each_other(size: int) -> None:
    _, key = _primitives.generate_keys()
    private, public = _primitives.private_bytes(key), _primitives.public_bytes(key)
    payload, info = (bytes(range(256)) * 4)[:size], b"info"
    assert reference.hpke_open(private, info, _primitives.hpke_seal(public, payload, info)) == payload
    ephemeral = _primitives.private_bytes(_primitives.generate_keys()[1])
    assert _primitives.hpke_open(key, reference.hpke_seal(public, info, payload, ephemeral), info) == payload


def test_ed25519_vectors() -> None:
    """Every 8th of the 1024 that RFC 8032 §7.1 draws its own from: sk ‖ pk : pk : message : signature ‖ message."""
    lines = (PUBLISHED / "asymmetric/Ed25519/sign.input").read_text().split()
    assert len(lines) == 1024
    for line in lines[::8]:
        secret, public, message, signed = (bytes.fromhex(part) for part in line.split(":")[:4])
        key, _ = _primitives.load_keys(secret[:32], bytes(31) + b"\x01")
        assert _primitives.public_bytes(key) == public
        assert _primitives.sign(key, message) == signed[:64]
        _primitives.verify(public, message, signed[:64])
        with pytest.raises(SealError):
            _primitives.verify(public, message + b"\0", signed[:64])


def test_rfc_8032_test_2() -> None:
    """RFC 8032 §7.1, TEST 2: one byte."""
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    key, _ = _primitives.load_keys(secret, bytes(31) + b"\x01")
    assert _primitives.public_bytes(key) == public
    assert _primitives.sign(key, b"\x72") == signature


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_nothing_is_sealed_to_a_point_of_small_order(point: bytes) -> None:
    with pytest.raises(SealError):
        _primitives.hpke_seal(point, b"payload", b"")
