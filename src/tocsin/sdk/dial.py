"""How a hub is reached: its address, the channel to it, and whether what is said is to be encrypted."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import grpc
import grpc.aio

from tocsin.domain.errors import BadInput
from tocsin.v1 import agent_pb2 as pb

METHOD: Final = "/tocsin.v1.AgentHub/Connect"
MAX_BYTES: Final = 8 * 1024 * 1024

OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_send_message_length", MAX_BYTES),
    ("grpc.max_receive_message_length", MAX_BYTES),
    # How long is waited between two tries is the link's affair: a shared connection would add a rest of its own.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)

Call = grpc.aio.StreamStreamCall[pb.FromAgent, pb.FromHub]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a hub asks for. ca, certificate, private_key: PEM; insecure: plain text to whatever host."""

    key: str | None = None
    ca: bytes | None = None
    certificate: bytes | None = None
    private_key: bytes | None = None
    insecure: bool = False

    @property
    def encrypted(self) -> bool:
        return self.ca is not None or self.certificate is not None

    def channel(self, hub: str) -> grpc.aio.Channel:
        """A new channel, so that the host's name is looked up anew."""
        if not self.encrypted:
            return grpc.aio.insecure_channel(hub, options=OPTIONS)
        credentials = grpc.ssl_channel_credentials(self.ca, self.private_key, self.certificate)
        return grpc.aio.secure_channel(hub, credentials, options=OPTIONS)

    def call(self, channel: grpc.aio.Channel) -> Call:
        """The stream is being opened."""
        connect = channel.stream_stream(
            METHOD,
            request_serializer=_written,
            response_deserializer=pb.FromHub.FromString,
        )
        return connect(metadata=(("authorization", f"Bearer {self.key}"),) if self.key else ())


def _written(message: pb.FromAgent) -> bytes:
    return message.SerializeToString()


def hubs_of(text: str, access: Access) -> tuple[str, ...]:
    """The addresses in ``HOST:PORT[,HOST:PORT…]``.

    Raises: BadInput, also where a key would go over a network in plain text.
    """
    hubs = tuple(part.strip() for part in text.split(",") if part.strip())
    if not hubs:
        raise BadInput("--hub names no hub; it is HOST:PORT[,HOST:PORT…], such as 127.0.0.1:8621")
    for hub in hubs:
        host, colon, port = hub.rpartition(":")
        bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
        if not colon or not host or bare or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise BadInput(f"--hub {hub!r}: must be HOST:PORT, such as 127.0.0.1:8621 or [::1]:8621")
        if not access.encrypted and not access.insecure and not is_loopback(host):
            raise BadInput(
                f"--hub {hub}: in plain text only this machine is spoken to; set TOCSIN_GRPC_CA to the hub's "
                "certificate authority, or TOCSIN_GRPC_INSECURE=1 on a network that nobody listens to"
            )
    return hubs


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
