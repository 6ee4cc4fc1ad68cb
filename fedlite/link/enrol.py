"""Joining: a device turns a join code into a certificate, over TLS that the code's fingerprint pins.

The device checks the server's certificate before it says anything, and both clocks before it spends the code.
The server looks at the code only when the request is whole and its proof of possession is good.
"""

import hashlib
import hmac
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from fedlite.crypto.certificates import (
    Authority,
    check_issued,
    fingerprint,
    issue_client_certificate,
    make_csr,
)
from fedlite.crypto.enrolment import Enrolment, load_enrolment, prepare_keys, save_enrolment
from fedlite.crypto.identity import PublicIdentity
from fedlite.crypto.invite import (
    FINGERPRINT_BYTES,
    JoinCode,
    join_address,
    parse_code,
    secret_hash,
    split_address,
)
from fedlite.errors import AccessError, FedliteError, FrameError, LinkError, RetryError, SettingsError
from fedlite.ledger.fleet import Device
from fedlite.link.enrol_port import Door, Listener
from fedlite.link.enrol_wire import PROTOCOL, Request, Stream, make_request, number_field, text_field

__all__ = ["Enrolment", "JoinServer", "join", "load_enrolment"]

MAX_CLOCK_SKEW_SECONDS = 300
Redeem = Callable[[bytes, Callable[[str], Device]], Device]

_log = logging.getLogger("fedlite.link.enrol")


class JoinServer:
    """Answers joining devices on "host:port" (port 0: any free one) from `start` to `stop`.

    `redeem(secret_hash, make)` spends a join code: it calls `make(name)` for the device to record and returns
    that, or raises AccessError for a code that is wrong, used or expired. `link_address()` is the host:port of
    the link itself. Each connection has `timeout_seconds` altogether. `clock` is in seconds since 1970.
    """

    def __init__(
        self,
        listen: str,
        authority: Authority,
        server_public: PublicIdentity,
        redeem: Redeem,
        link_address: Callable[[], str],
        *,
        clock: Callable[[], float] = time.time,
        timeout_seconds: float = 10.0,
        door: Door | None = None,
    ) -> None:
        self._host, self._port = split_address(listen)
        self._authority = authority
        self._server_public = server_public
        self._redeem = redeem
        self._link_address = link_address
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._door = door or Door()
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Begin to listen, in threads of its own; returns the bound "host:port".

        SettingsError when the address cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self._authority.server_file)
        try:
            self._listener = Listener((self._host, self._port), context, self._door, self._serve)
        except OSError as error:
            asked = join_address(self._host, self._port)
            raise SettingsError(f"cannot listen for joining devices on {asked}: {error}") from None
        run = self._listener.serve_forever
        self._thread = threading.Thread(target=run, args=(0.05,), name="fedlite-join", daemon=True)
        self._thread.start()
        return join_address(self._host, self._listener.server_address[1])

    def stop(self) -> None:
        """Close the port and every connection; returns when no thread is left. Twice is as good as once."""
        if self._listener is None or self._thread is None:
            return
        self._listener.shutdown()
        self._listener.close_connections()
        self._listener.server_close()
        self._thread.join()
        self._listener = self._thread = None

    def _serve(self, sock: ssl.SSLSocket, host: str) -> None:
        """One device, from handshake to answer."""
        stream = Stream(sock, self._timeout_seconds)
        try:
            stream.handshake()
            stream.send({"fedlite": PROTOCOL, "time": self._clock()})
            answer = self._answer(Request.from_message(stream.receive()), host)
            stream.send(answer)
        except FedliteError as error:  # nothing is answered to what is not a request
            _log.warning("join from %s dropped: %s", host, error)
            answer = {}
        if "welcome" not in answer:
            self._door.failed(host)

    def _answer(self, request: Request, host: str) -> dict[str, Any]:
        """The last frame, for a request that is whole; FrameError or SealError for one that is not sound."""
        request.check_proof(fingerprint(self._authority.server_pem))
        public = request.public
        issued = issue_client_certificate(self._authority, request.csr_pem, public.client_id)
        try:
            device = self._redeem(
                secret_hash(request.secret), lambda name: self._device(name, public, issued)
            )
        except AccessError as error:
            _log.warning("join from %s refused: %s", host, error)
            return {"refused": error.args[0], "remedy": error.remedy}
        except RetryError as error:
            _log.error("join from %s failed: %s", host, error)
            return {"later": error.args[0]}
        _log.info("device %r joined from %s with key id %s", device.name, host, public.client_id)
        welcome = {
            "name": device.name,
            "certificate": issued.decode(),
            "ca": self._authority.ca_pem.decode(),
            "server_signing_key": self._server_public.signing_key.hex(),
            "server_sealing_key": self._server_public.sealing_key.hex(),
            "link_address": self._link_address(),
        }
        return {"welcome": welcome}

    def _device(self, name: str, public: PublicIdentity, certificate_pem: bytes) -> Device:
        return Device(
            name=name,
            key_id=public.client_id,
            signing_key=public.signing_key,
            sealing_key=public.sealing_key,
            certificate_sha256=fingerprint(certificate_pem),
            status="active",
            joined_at=self._clock(),
        )


def join(code: str, state_dir: Path, *, timeout_seconds: float = 20.0) -> Enrolment:
    """Spend a join code: make this device's keys in `state_dir`, have them certified, and store the answer.

    Raises AccessError (malformed, wrong, used or expired code; another server than the code names), StateError
    (has joined already), SettingsError (the clocks differ by more than 5 minutes; the code is not spent) or
    LinkError (no server there). After any of them the same folder can be used for another try.
    """
    invitation = parse_code(code)
    identity, key_pem = prepare_keys(state_dir)
    with _connect(invitation, timeout_seconds) as sock:
        certificate = _pinned_certificate(sock, invitation)
        stream = Stream(sock, timeout_seconds)
        _check_greeting(stream.receive())
        csr_pem = make_csr(key_pem, identity.public.client_id)
        request = make_request(invitation.secret, identity, csr_pem, fingerprint(certificate))
        stream.send(request.to_message())
        welcome = _welcome(stream.receive())
    enrolment = Enrolment(
        name=text_field(welcome, "name"),
        identity=identity,
        server=_server_keys(welcome),
        link_address=_address(welcome),
        ca_pem=text_field(welcome, "ca").encode(),
        certificate_pem=text_field(welcome, "certificate").encode(),
        private_key_pem=key_pem,
    )
    check_issued(certificate, enrolment.ca_pem)  # the link will be checked against this authority
    save_enrolment(state_dir, enrolment)
    return enrolment


def _connect(invitation: JoinCode, timeout_seconds: float) -> ssl.SSLSocket:
    """TLS 1.3 with whoever answers: the fingerprint, not a name or an authority, says who it must be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = None
    try:
        sock = socket.create_connection((invitation.host, invitation.port), timeout_seconds)
        return context.wrap_socket(sock)
    except (OSError, ValueError) as error:
        if sock is not None:
            sock.close()
        raise LinkError(
            f"cannot reach the join server at {invitation.address}: {error}",
            remedy="check that the server runs and can be reached there, then use the same code again",
        ) from None


def _pinned_certificate(sock: ssl.SSLSocket, invitation: JoinCode) -> bytes:
    """The server's certificate (PEM), once it is the one that the code names; before anything is sent."""
    der = sock.getpeercert(binary_form=True) or b""
    seen = hashlib.sha256(der).digest()[:FINGERPRINT_BYTES]
    if not hmac.compare_digest(seen, invitation.fingerprint):
        raise AccessError(
            f"{invitation.address} shows certificate {seen.hex()}, the join code names "
            f"{invitation.fingerprint.hex()}: this is another server, or someone in between"
        )
    return ssl.DER_cert_to_PEM_cert(der).encode()


def _check_greeting(greeting: dict[str, Any]) -> None:
    """FrameError for another protocol; SettingsError when the clocks are too far apart."""
    if (protocol := text_field(greeting, "fedlite")) != PROTOCOL:
        raise FrameError(f"the join server speaks {protocol!r}, this device {PROTOCOL!r}")
    server_time = number_field(greeting, "time")
    skew = time.time() - server_time
    if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
        raise SettingsError(
            f"this device's clock is {timedelta(seconds=round(abs(skew)))} (h:mm:ss) "
            f"{'ahead of' if skew > 0 else 'behind'} the server's, at most 0:05:00 is allowed",
            remedy="set it: sudo timedatectl set-ntp true, or sudo date -u -s "
            f"@{round(server_time)}; then use the same code, which is not spent",
        )


def _welcome(answer: dict[str, Any]) -> dict[str, Any]:
    """What an invited device is told. AccessError, with the server's words, for one that is not."""
    if "refused" in answer:
        text, remedy = (_readable(text_field(answer, name)) for name in ("refused", "remedy"))
        raise AccessError(text, remedy=remedy)
    if "later" in answer:
        raise LinkError(_readable(text_field(answer, "later")))
    welcome = answer.get("welcome")
    if not isinstance(welcome, dict):
        raise FrameError("the join server's answer is neither a welcome nor a refusal")
    return welcome


def _server_keys(welcome: dict[str, Any]) -> PublicIdentity:
    try:
        keys = [bytes.fromhex(text_field(welcome, f"server_{kind}_key")) for kind in ("signing", "sealing")]
    except ValueError:
        raise FrameError("the join server's keys are not hexadecimal") from None
    return PublicIdentity(*keys)


def _address(welcome: dict[str, Any]) -> str:
    try:
        return join_address(*split_address(text_field(welcome, "link_address")))
    except SettingsError:
        raise FrameError("the join server's link address is not host:port") from None


def _readable(text: str) -> str:
    return "".join(each for each in text[:300] if each.isprintable())
