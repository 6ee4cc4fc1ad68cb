"""Enrolment and admission as a user meets them: codes, certificates, clocks, keys, revocation."""

import json
import shutil
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.programs.programs import (
    BAD_SETTINGS,
    FAILED,
    assert_refused,
    invite,
    run,
    serving,
    started,
)

NEW_CODE = "ask the operator for a new join code: python -m server invite NAME"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device's own data, which need nothing but NumPy to open."""
    path = tmp_path_factory.mktemp("samples") / "own.npz"
    generator = np.random.default_rng(1)
    np.savez(path, x=generator.random((30, 1, 8, 8), np.float32), y=np.arange(30) % 10)
    return path


def test_codes_that_are_wrong(home: Path, tmp_path: Path) -> None:
    """None of them spends a code, and a good one works afterwards in the same folder."""
    state = tmp_path / "pi"
    with serving(home / "server") as server:
        code, expired = invite(home / "server", "pi"), invite(home / "server", "late", "--minutes", "0.0001")
        for text, words in (
            (code[:-3], "not a whole and correct join code"),
            (code.replace("fl1", "fl9"), "not a whole and correct join code"),
            ("", "not a whole and correct join code"),
            ("x" * 10_000, "not a whole and correct join code"),
            (expired, "the join code for 'late' has expired"),
        ):
            assert_refused(
                run("client", "join", text, "--state-dir", state), FAILED, words, "operator for a new"
            )
        assert_refused(run("client", "join", "--state-dir", state), BAD_SETTINGS, "wants a join code")
        newer = invite(home / "server", "pi")
        assert_refused(
            run("client", "join", code, "--state-dir", state), FAILED, "replaced by a newer one", NEW_CODE
        )
        assert run("client", "join", newer, "--state-dir", state).code == 0
        used = run("client", "join", newer, "--state-dir", tmp_path / "thief")
        assert_refused(used, FAILED, "used already, by another device", NEW_CODE)
        again = run("client", "join", newer, "--state-dir", state)
        assert_refused(again, BAD_SETTINGS, "has joined already", "another --state-dir")
        taken = run("server", "invite", "pi", "--state-dir", home / "server")
        assert_refused(taken, BAD_SETTINGS, "'pi' has joined already", "revoke")
        assert server.end(signal.SIGINT).code == 0
    gone = run("client", "join", newer, "--state-dir", tmp_path / "other")
    assert_refused(gone, FAILED, "cannot reach the join server at 127.0.0.1", "use the same code again")
    assert not (tmp_path / "other" / "enrolment.json").exists()


def test_a_code_of_another_server(home: Path, tmp_path: Path) -> None:
    """The code names server B; what answers at its address is server A."""
    with serving(home / "server"):
        address = json.loads((home / "server" / "address.json").read_text())["join"]
        port = address.rpartition(":")[2]
        other = invite(tmp_path / "b", "pi", "--advertise", "127.0.0.1", "--join-port", port)
        done = run("client", "join", other, "--state-dir", tmp_path / "pi")
        assert_refused(done, FAILED, "this is another server, or someone in between")


def test_names_and_commands(home: Path, tmp_path: Path) -> None:
    state = ("--state-dir", home / "server")
    for name in ("a b", "", "../x", "-x", "x" * 64, "é"):
        assert_refused(run("server", "invite", name, *state), BAD_SETTINGS)
    assert_refused(run("server", "invite", "pi", *state, "--minutes", "-1"), BAD_SETTINGS, "--minutes")
    assert_refused(run("server", "revoke", "nobody", *state), BAD_SETTINGS, "one, three, two")
    for command in (("revoke", "pi"), ("devices",)):
        done = run("server", *command, "--state-dir", tmp_path / "none")
        assert_refused(done, BAD_SETTINGS, "not a server's state directory")
    assert not (tmp_path / "none").exists()


def test_a_server_of_another_authority(home: Path, samples: Path, tmp_path: Path) -> None:
    """Server B is server A's copy with an authority of its own; A's device is sent there with --server."""
    other = tmp_path / "b"
    invite(other, "pi")
    shutil.copy(home / "server" / "ledger.db", other)
    shutil.copytree(home / "server" / "results", other / "results")
    with serving(other) as server:
        address = json.loads((other / "address.json").read_text())["link"]
        done = run("client", "--state-dir", home / "one", "--data", samples, "--server", address)
        assert_refused(done, FAILED, f"the server at {address} is not the one this device joined", NEW_CODE)
        stranger = shutil.copytree(home / "one", tmp_path / "stranger")
        shutil.copy(other / "ca.pem", stranger / "ca.cert.pem")
        mixed = run("client", "--state-dir", stranger, "--data", samples, "--server", address)
        assert_refused(mixed, BAD_SETTINGS, "damaged or do not belong together")
        assert server.end(signal.SIGTERM).code == 0


def test_a_revoked_device_stops_for_good(home: Path, samples: Path, tmp_path: Path) -> None:
    """It ends by itself with the reason, does not come back, and the server goes on."""
    with (
        serving(home / "server") as server,
        started(tmp_path / "one.log", "client", "--state-dir", home / "one", "--data", samples) as device,
    ):
        device.wait_for("connected to the server")
        done = run("server", "revoke", "one", "--state-dir", home / "server")
        assert done.code == 0
        assert_refused(device.end(), FAILED, "refuses this device: device 'one' was revoked", NEW_CODE)
        again = run("client", "--state-dir", home / "one", "--data", samples)
        assert_refused(again, FAILED, "device 'one' was revoked", NEW_CODE)
        assert server.end(signal.SIGINT).code == 0
    listed = run("server", "devices", "--state-dir", home / "server").out
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [
        ["one", "revoked"],
        ["two", "active"],
        ["three", "active"],
    ]


def test_two_clients_with_one_state_directory(home: Path, samples: Path, tmp_path: Path) -> None:
    """The second is refused on this machine, where the folder is held; the first goes on."""
    with (
        serving(home / "server"),
        started(tmp_path / "one.log", "client", "--state-dir", home / "one", "--data", samples) as device,
    ):
        device.wait_for("connected to the server")
        second = run("client", "--state-dir", home / "one", "--data", samples)
        assert_refused(second, BAD_SETTINGS, "is in use by another program")
        assert device.end(signal.SIGINT).code == 0


def test_a_clock_before_the_certificate_s_dates(home: Path, samples: Path) -> None:
    """As a Pi without a clock battery sees it: the certificate, of the right authority, is not valid yet."""
    certificate_file, ca_file = home / "one" / "device.cert.pem", home / "server" / "ca.pem"
    old = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    ca_key = serialization.load_pem_private_key(ca_file.read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    for begin, end in ((timedelta(days=1), timedelta(days=9)), (timedelta(days=-9), timedelta(days=-1))):
        builder = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer)
        builder = builder.public_key(old.public_key()).serial_number(old.serial_number)
        builder = builder.not_valid_before(now + begin).not_valid_after(now + end)
        for extension in old.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        signed = builder.sign(ca_key, hashes.SHA256())
        certificate_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        done = run("client", "--state-dir", home / "one", "--data", samples)
        assert_refused(
            done, BAD_SETTINGS, "this device's clock says", f"{now + begin:%Y-%m-%d}", "timedatectl"
        )


@pytest.mark.parametrize("name", ["identity.key", "device.key.pem", "enrolment.json"])
def test_private_files_that_others_may_read(home: Path, samples: Path, name: str) -> None:
    path = home / "one" / name
    path.chmod(0o644)
    done = run("client", "--state-dir", home / "one", "--data", samples)
    assert_refused(done, BAD_SETTINGS, f"{path} has mode 0644, 0600 expected", f"chmod 600 {path}")


def test_state_that_is_missing_or_damaged(home: Path, samples: Path, tmp_path: Path) -> None:
    done = run("client", "--state-dir", tmp_path / "new", "--data", samples)
    assert_refused(done, BAD_SETTINGS, "has not joined a server", "python -m server invite NAME")
    assert not (tmp_path / "new").exists()
    damaged, missing = home / "two" / "ca.cert.pem", home / "three" / "device.cert.pem"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    done = run("client", "--state-dir", home / "two", "--data", samples)
    assert_refused(done, BAD_SETTINGS, f"{home / 'two'} are damaged", "backup")
    missing.unlink()
    done = run("client", "--state-dir", home / "three", "--data", samples)
    assert_refused(done, BAD_SETTINGS, f"{missing} is missing", "backup")
    (home / "one" / "memory.db").write_bytes(b"not a database at all" * 100)
    done = run("client", "--state-dir", home / "one", "--data", samples)
    assert_refused(done, BAD_SETTINGS, "memory.db")
