"""Who gets in, who is put out, and what a device that does not keep to the protocol loses: its own stream."""

import concurrent.futures
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from fedlite.crypto.certificates import Authority
from fedlite.errors import AccessError, FedliteError, FrameError, LinkError, SettingsError
from fedlite.flower import Message, RecordDict
from fedlite.link import frames
from fedlite.link.credentials import CLIENT_OPTIONS, METHOD, SERVICE, ClientCredentials
from fedlite.link.diagnosis import diagnose
from fedlite.link.packing import Packed, pack
from fedlite.link.server import LinkServer
from tests.link.world import Admission, Fleet, Running, device, echo, quiet_ending, server_credentials


def ask(fleet: Fleet, node: int) -> Message:
    [reply] = fleet.grid.send_and_receive(
        [Message(RecordDict(), dst_node_id=node, message_type="train")], timeout=60.0
    )
    return reply


def ended(fleet: Fleet, credentials: ClientCredentials) -> FedliteError | None:
    return Running(fleet.address, credentials).ended()


def test_a_certificate_of_another_authority_gets_nowhere(
    authority: Authority, other_authority: Authority
) -> None:
    with Fleet(authority) as fleet:
        error = ended(fleet, device(other_authority, "stranger"))
        assert isinstance(error, AccessError)
        assert "another authority" in str(error)
        mixed = dataclasses.replace(device(other_authority, "stranger"), ca_pem=authority.ca_pem)
        error = ended(fleet, mixed)
        assert isinstance(error, SettingsError)
        assert "do not fit together" in str(error)
        assert fleet.server.seen() == {}


class Raw:
    """A device that sends what it likes."""

    def __init__(self, fleet: Fleet, credentials: grpc.ChannelCredentials) -> None:
        self._channel = grpc.secure_channel(fleet.address, credentials, options=CLIENT_OPTIONS)
        self._stub = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def status(self, *raw: bytes) -> tuple[grpc.StatusCode, str]:
        """What the server ends the stream with after these frames."""
        call = self._stub(iter(raw))
        try:
            for _ in call:
                pass
        except grpc.RpcError:
            pass
        return call.code(), call.details()


@pytest.fixture(scope="module")
def fleet(authority: Authority) -> Iterator[tuple[Fleet, int]]:
    """A server with one honest client, which must still be served after each test."""
    with Fleet(authority, max_message_bytes=8 * 1024 * 1024) as made:
        [node] = made.join(echo)
        yield made, node


def test_no_certificate_gets_no_connection(fleet: tuple[Fleet, int]) -> None:
    with Raw(fleet[0], grpc.ssl_channel_credentials(fleet[0].authority.ca_pem)) as raw:
        assert raw.status(frames.hello([]))[0] is grpc.StatusCode.UNAVAILABLE
    assert ask(*fleet).has_content()


def test_a_certificate_of_another_authority_gets_no_connection(
    fleet: tuple[Fleet, int], other_authority: Authority
) -> None:
    mixed = dataclasses.replace(device(other_authority, "x"), ca_pem=fleet[0].authority.ca_pem)
    with Raw(fleet[0], mixed.to_grpc()) as raw:
        assert raw.status(frames.hello([]))[0] is grpc.StatusCode.UNAVAILABLE
    assert ask(*fleet).has_content()


HELLO = frames.hello([])
CLAIM = (
    b"\x01\x03" + bytes(16) + (10).to_bytes(4, "big") + (1).to_bytes(4, "big") + (2**40).to_bytes(8, "big")
)


@pytest.mark.parametrize(
    ("sent", "details"),
    [
        ([b""], "frame of 0 bytes"),
        ([b"GET / HTTP/1.1"], "link version 71"),
        ([b"\x01garbage"], "kind 103"),
        ([frames.drop()], "a hello expected"),
        ([HELLO, HELLO], "hello before"),
        ([HELLO, b"\x02\x05"], "link version 2"),
        ([HELLO, frames.drop()], "without a message"),
        ([HELLO, CLAIM + b"x"], "at most 8388608"),
        ([HELLO, bytes((1, 4)) + bytes(100)], "without a message"),
        ([HELLO, frames.ack("00" * 16)], "ack frame"),
    ],
)
def test_bytes_that_are_no_protocol_end_that_stream_alone(
    fleet: tuple[Fleet, int], sent: list[bytes], details: str
) -> None:
    with Raw(fleet[0], device(fleet[0].authority, "raw").to_grpc()) as raw:
        code, said = raw.status(*sent)
    assert details in said
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
    assert ask(*fleet).has_content()


def test_a_frame_over_4_mib_ends_that_stream_alone(fleet: tuple[Fleet, int]) -> None:
    credentials = device(fleet[0].authority, "raw").to_grpc()
    options = [each for each in CLIENT_OPTIONS if each[0] != "grpc.max_send_message_length"]
    channel = grpc.secure_channel(fleet[0].address, credentials, options=options)
    call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter([HELLO, bytes(5_000_000)]))
    with pytest.raises(grpc.RpcError):
        list(call)
    assert call.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    channel.close()
    assert ask(*fleet).has_content()


def test_a_reply_in_another_nodes_name_is_refused(fleet: tuple[Fleet, int]) -> None:
    """The thief knows the id of a message to an absent node, and answers it with a right-looking reply."""
    [message_id] = fleet[0].grid.push_messages([Message(RecordDict(), dst_node_id=77, message_type="train")])
    found = fleet[0].server.exchange.next(77, set())
    assert found is not None
    forged = pack(Message(RecordDict(), reply_to=Message(RecordDict(), dst_node_id=77, message_type="train")))
    with Raw(fleet[0], device(fleet[0].authority, "thief").to_grpc()) as raw:
        code, said = raw.status(HELLO, *frames.message(message_id, forged))
    assert (code, said) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "a reply to a message that was sent to another node",
    )
    assert fleet[0].grid.pull_messages([message_id]) == []
    fleet[0].grid.withdraw([message_id])
    assert ask(*fleet).has_content()


def test_a_truncated_reply_is_not_counted(fleet: tuple[Fleet, int]) -> None:
    counted = fleet[0].server.exchange.counted_replies
    [first, *_] = frames.message("00" * 16, Packed(b"{}", (bytes(2_000_000),)))
    with Raw(fleet[0], device(fleet[0].authority, "raw").to_grpc()) as raw:
        assert raw.status(HELLO, first)[0] is grpc.StatusCode.OK
    assert fleet[0].server.exchange.counted_replies == counted


def test_a_device_that_is_revoked_is_cut_off_while_connected(authority: Authority) -> None:
    with quiet_ending(Fleet(authority)) as fleet:
        bad, good = fleet.join(echo, echo)
        fleet.admission.revoked.add(bad)
        error = fleet.clients[0].ended()
        assert isinstance(error, AccessError)
        assert "the certificate was revoked" in str(error)
        fleet.wait_for(lambda: fleet.grid.get_node_ids() == [good])
        assert ask(fleet, good).has_content()


def test_a_device_that_is_revoked_does_not_get_in(authority: Authority) -> None:
    with quiet_ending(Fleet(authority)) as fleet:
        [node] = fleet.join(echo)
        fleet.admission.revoked.add(node)
        fleet.server.recheck()
        fleet.wait_for(lambda: not fleet.grid.get_node_ids())
        assert isinstance(fleet.clients[0].ended(), AccessError)


def test_a_second_client_with_the_same_certificate_takes_over(authority: Authority) -> None:
    with quiet_ending(Fleet(authority)) as fleet:
        credentials = device(authority, "twin")
        fleet.clients = [Running(fleet.address, credentials)]
        fleet.wait_for(fleet.grid.get_node_ids)
        [node] = fleet.grid.get_node_ids()
        fleet.clients.append(Running(fleet.address, credentials))
        error = fleet.clients[0].ended()
        assert isinstance(error, SettingsError)
        assert "took over" in str(error)
        assert ask(fleet, node).has_content()


def test_a_port_in_use_is_named(fleet: tuple[Fleet, int]) -> None:
    with pytest.raises(SettingsError, match=fleet[0].address):
        LinkServer(fleet[0].address, server_credentials(fleet[0].authority), Admission()).start()


def test_a_server_of_another_version_is_named(authority: Authority) -> None:
    """A server of tomorrow: real TLS, real gRPC, and a welcome of version 2."""

    def stream(requests: Iterator[bytes], context: object) -> Iterator[bytes]:
        next(requests)
        yield b"\x02\x02" + bytes(8)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    handler = grpc.stream_stream_rpc_method_handler(stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(authority).to_grpc())
    server.start()
    error = Running(f"127.0.0.1:{port}", device(authority, "old")).ended()
    server.stop(None)
    assert isinstance(error, SettingsError)
    assert "the server speaks link version 2, the client version 1: update the client" in str(error)


def resigned(authority: Authority, pem: bytes, *, begin: datetime, end: datetime) -> bytes:
    """The same certificate with other dates."""
    old = x509.load_pem_x509_certificate(pem)
    key = serialization.load_pem_private_key(authority.ca_key_pem, None)
    made = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer)
    made = made.public_key(old.public_key()).serial_number(x509.random_serial_number())  # type: ignore[arg-type]
    made = made.not_valid_before(begin).not_valid_after(end)
    for extension in old.extensions:
        made = made.add_extension(extension.value, extension.critical)
    assert old.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]


@pytest.mark.parametrize(("days", "words"), [(-30, "has expired"), (30, "is not yet valid")])
def test_a_clock_outside_the_servers_dates_is_named(authority: Authority, days: int, words: str) -> None:
    begin = datetime.now(UTC) + timedelta(days=days)
    pem = resigned(authority, authority.server_pem, begin=begin, end=begin + timedelta(days=10))
    with Fleet(dataclasses.replace(authority, server_pem=pem)) as fleet:
        error = ended(fleet, device(authority, "late"))
        assert isinstance(error, SettingsError)
        assert words in str(error)
        assert "clock" in str(error)


def test_a_clock_outside_the_devices_own_dates_is_named(authority: Authority) -> None:
    begin, good = datetime.now(UTC) + timedelta(days=5), device(authority, "early")
    pem = resigned(authority, good.certificate_pem, begin=begin, end=begin + timedelta(days=10))
    error = Running("127.0.0.1:1", dataclasses.replace(good, certificate_pem=pem)).ended()
    assert isinstance(error, SettingsError)
    assert "clock" in str(error)


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Connection refused", LinkError),
        (grpc.StatusCode.UNAVAILABLE, "", LinkError),
        (grpc.StatusCode.INTERNAL, "", LinkError),
        (grpc.StatusCode.PERMISSION_DENIED, "revoked", AccessError),
        (grpc.StatusCode.INVALID_ARGUMENT, "bad", FrameError),
        (grpc.StatusCode.UNIMPLEMENTED, "", SettingsError),
    ],
)
def test_each_status_has_its_remedy(code: grpc.StatusCode, details: str, kind: type) -> None:
    assert type(diagnose("pi:1", code, details)) is kind
