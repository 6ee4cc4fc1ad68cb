"""Identities: derived ids, the key file, and that private keys show up nowhere."""

import contextlib
import hashlib
import json
import pickle
import stat
from pathlib import Path

import pytest

from fedlite.crypto.files import read_private, write_private
from fedlite.crypto.identity import Identity, PublicIdentity, Purpose
from fedlite.errors import FrameError, SettingsError, StateError, StorageError


def test_ids_come_from_the_signing_key() -> None:
    """SHA-256 of 32 zero bytes is 66687aad f862bd77 6c8fc18b 8e9f8e20 …"""
    public = PublicIdentity(bytes(32), b"x" * 32)
    assert public.client_id == "66687aadf862bd776c8fc18b8e9f8e20"
    assert public.key_id == bytes.fromhex(public.client_id)
    assert public.node_id == 0x66687AADF862BD77


def test_node_id_fits_63_bits() -> None:
    for number in range(200):
        public = PublicIdentity(number.to_bytes(32, "big"), bytes(32))
        first = int.from_bytes(hashlib.sha256(public.signing_key).digest()[:8], "big")
        assert 0 < public.node_id < 2**63
        assert public.node_id == first % 2**63


@pytest.mark.parametrize(("signing", "sealing"), [(31, 32), (32, 33), (0, 32)])
def test_keys_have_32_bytes(signing: int, sealing: int) -> None:
    with pytest.raises(FrameError, match="32 expected"):
        PublicIdentity(bytes(signing), bytes(sealing))


def test_identities_differ() -> None:
    assert len({Identity.generate().public.client_id for _ in range(20)}) == 20


def test_save_and_load(tmp_path: Path) -> None:
    identity, path = Identity.generate(), tmp_path / "state" / "identity.key"
    identity.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = Identity.load(path)
    assert again.public == identity.public
    again.public.verify(Purpose.MANIFEST, b"data", identity.sign(Purpose.MANIFEST, b"data"))
    assert [p.name for p in path.parent.iterdir()] == ["identity.key"]


def test_save_overwrites_nothing(tmp_path: Path) -> None:
    first, path = Identity.generate(), tmp_path / "identity.key"
    first.save(path)
    with pytest.raises(StateError, match="exists"):
        Identity.generate().save(path)
    assert Identity.load(path).public == first.public


def test_a_file_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    Identity.generate().save(path)
    for mode in (0o640, 0o604, 0o660, 0o644):
        path.chmod(mode)
        with pytest.raises(SettingsError, match="chmod 600") as caught:
            Identity.load(path)
        assert not isinstance(caught.value, StateError)
    path.chmod(0o400)
    Identity.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="missing"):
        Identity.load(tmp_path / "identity.key")


def test_every_damage_to_the_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    identity = Identity.generate()
    identity.save(path)
    whole, ignored = path.read_bytes(), 0
    for at in range(len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        if damaged.split() == whole.split():  # one kind of white space for another is no damage
            continue
        write_private(path, damaged, replace=True)
        with contextlib.suppress(StateError):
            assert Identity.load(path).public == identity.public
            ignored += 1  # X25519 ignores five bits of its private key (RFC 7748 §5): still the same key
    assert ignored <= 3
    for content in (b"", b"[]", b"null", b"{}", b"\xff", b"[" * 60000, whole[:-2], whole + b"x"):
        write_private(path, content, replace=True)
        with pytest.raises(StateError):
            Identity.load(path)
    write_private(path, bytes(70000), replace=True)
    with pytest.raises(StateError, match="more than"):
        Identity.load(path)


def test_private_keys_do_not_show(tmp_path: Path) -> None:
    identity = Identity.generate()
    identity.save(tmp_path / "identity.key")
    held = json.loads((tmp_path / "identity.key").read_text())
    for text in (repr(identity), str(identity), f"{identity!r:>80}", repr(vars(type(identity)))):
        assert held["signing_key"] not in text
        assert held["sealing_key"] not in text
    assert repr(identity) == f"Identity({identity.public.client_id})"
    with pytest.raises(TypeError):
        pickle.dumps(identity)


def test_labels_are_not_prefixes_of_each_other() -> None:
    labels = [purpose.value for purpose in Purpose]
    assert all(label.count(b"\0") == 1 and label.endswith(b"\0") for label in labels)
    assert len(set(labels)) == len(labels)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, b"old")
    with pytest.raises(StorageError):
        write_private(path / "below", b"new")  # a file is no folder
    with pytest.raises(StorageError):
        write_private(tmp_path / ("n" * 300), b"name too long for the disk")
    assert read_private(path) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
