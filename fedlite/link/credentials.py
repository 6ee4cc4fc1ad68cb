"""PEM files and channel options, as gRPC takes them."""

from dataclasses import dataclass, field

import grpc

from fedlite.link.frames import MAX_FRAME_BYTES

TLS_NAME = "fedlite"  # the name in every server's certificate, whatever address it is reached by
SERVICE = "fedlite.Link"
METHOD = "Stream"

_COMMON = (
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_timeout_ms", 10_000),
    (
        "grpc.http2.bdp_probe",
        0,
    ),  # else the window grows to many MiB a peer; 512 KiB carry 40 Mbit/s at 100 ms
    ("grpc.http2.lookahead_bytes", 512 * 1024),
)
SERVER_OPTIONS = (
    *_COMMON,
    ("grpc.so_reuseport", 0),  # otherwise two servers share a port, and each gets half of the clients
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.server_handshake_timeout_ms", 20_000),
)
CLIENT_OPTIONS = (
    *_COMMON,
    ("grpc.ssl_target_name_override", TLS_NAME),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.use_local_subchannel_pool", 1),  # each attempt is fresh: the back-off is ours
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True)
class ServerCredentials:
    """PEM: the authority that signs devices, and the server's own certificate and key."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)

    def to_grpc(self) -> grpc.ServerCredentials:
        """Mutual TLS: a client without a certificate of this authority gets no connection."""
        return grpc.ssl_server_credentials(
            [(self.key_pem, self.certificate_pem)], root_certificates=self.ca_pem, require_client_auth=True
        )


@dataclass(frozen=True)
class ClientCredentials:
    """PEM: the authority that signs the server, and this device's certificate and key."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)

    def to_grpc(self) -> grpc.ChannelCredentials:
        """Mutual TLS with this authority alone, not the system's."""
        return grpc.ssl_channel_credentials(self.ca_pem, self.key_pem, self.certificate_pem)
