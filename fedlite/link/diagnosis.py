"""Why a connection ended, as the error whose remedy fits: try again, correct something, or stop for good."""

import time
from datetime import UTC, datetime

import grpc

from fedlite.crypto.certificates import check_issued, public_key_of, validity
from fedlite.errors import AccessError, FedliteError, FrameError, LinkError, SettingsError
from fedlite.link.credentials import ClientCredentials

SET_CLOCK = "set this device's clock, for example with: timedatectl set-ntp true"


def check_credentials(credentials: ClientCredentials) -> None:
    """Raise SettingsError for what no handshake can heal: keys that do not fit, or a clock outside the dates."""
    try:
        public_key = public_key_of(credentials.key_pem)
        check_issued(credentials.certificate_pem, credentials.ca_pem, public_key)
        valid_from, valid_until = validity(credentials.certificate_pem)
    except (FrameError, ValueError, TypeError) as problem:
        raise SettingsError(
            f"this device's certificate, key and authority do not fit together: {_text(problem)}",
            remedy=AccessError.remedy,
        ) from problem
    now = datetime.now(UTC)
    if not valid_from <= now <= valid_until:
        raise SettingsError(
            f"this device's clock says {now:%Y-%m-%d %H:%M} UTC, its certificate is valid from "
            f"{valid_from:%Y-%m-%d} to {valid_until:%Y-%m-%d}",
            remedy=f"{SET_CLOCK}; if it is right, {AccessError.remedy}",
        )


def diagnose(address: str, code: grpc.StatusCode, details: str) -> FedliteError:
    """The error behind a gRPC status. LinkError: try again; every other kind ends the program."""
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return AccessError(f"the server at {address} refuses this device: {details}")
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return SettingsError(details, remedy="see the message")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return FrameError(f"the server at {address} refused what this device sent: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return SettingsError(f"what listens at {address} is not a fedlite server", remedy="check --server")
    if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
        return _untrusted(address, details)
    return LinkError(f"no connection to {address}: {details or code.name}")


def _untrusted(address: str, details: str) -> FedliteError:
    if "not yet valid" in details or "has expired" in details:
        now = datetime.fromtimestamp(time.time(), UTC)
        return SettingsError(
            f"by this device's clock, {now:%Y-%m-%d %H:%M} UTC, the certificate of the server at {address} "
            f"{'is not yet valid' if 'not yet valid' in details else 'has expired'}",
            remedy=f"{SET_CLOCK}; if it is right, renew the server's certificate",
        )
    return AccessError(
        f"the server at {address} is not the one this device joined: its certificate is of another authority"
    )


def _text(problem: Exception) -> str:
    return str(problem.args[0]) if problem.args else type(problem).__name__
