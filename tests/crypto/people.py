"""Two ends of an envelope, made once per test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedlite.crypto.identity import Identity, PublicIdentity
from fedlite.crypto.seal import Context, Opened, open_sealed, seal

CONTEXT = Context(kind=1, run_id=b"r" * 16, round_num=3, attempt=0, model_hash=b"m" * 32, spec_hash=b"s" * 32)


@dataclass
class Pair:
    """A server that knows one device; `revoked` key ids are refused as unknown ones are."""

    server: Identity = field(default_factory=Identity.generate)
    device: Identity = field(default_factory=Identity.generate)
    revoked: set[bytes] = field(default_factory=set)

    def find(self, key_id: bytes) -> PublicIdentity | None:
        known = {self.device.public.key_id: self.device.public}
        return None if key_id in self.revoked else known.get(key_id)

    def seal(self, payload: bytes = b"payload", *, context: Context = CONTEXT, seq: int = 1) -> bytes:
        return seal(self.device, self.server.public, payload, context, seq)

    def open(self, envelope: bytes, *, context: Context = CONTEXT, **options: Any) -> Opened:
        find: Callable[[bytes], PublicIdentity | None] = options.pop("find_sender", self.find)
        return open_sealed(
            self.server, envelope, context, find_sender=find, max_payload_bytes=options.pop("limit", 1 << 20)
        )
