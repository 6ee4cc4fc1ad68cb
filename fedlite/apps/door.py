"""Every check a client's answer passes before it counts."""

from dataclasses import dataclass

from fedlite.apps.offer import Manifest
from fedlite.compress.codec import Codec
from fedlite.crypto.seal import check_fresh
from fedlite.errors import ReplayError
from fedlite.ledger.store import Counted
from fedlite.rounds import Model
from fedlite.tensors import check_finite
from fedlite.types import Result
from fedlite.uplink import REPORT_OVERHEAD_BYTES, Receiver, unpack


@dataclass(frozen=True)
class Door:
    """Opens reports. `max_examples` is the largest example count believed of one client."""

    receiver: Receiver
    codec: Codec
    max_examples: int

    def open(
        self, manifest: Manifest, model: Model, client_id: str, envelope: bytes, last: Counted | None
    ) -> tuple[Result, Counted]:
        """The result an envelope holds, and what the ledger must remember of it; `last` is what it remembers.

        PeerError says which check failed: size, authenticity, run and round, replay, form, shape, values.
        """
        like, masks = model.held.params, model.held.masks
        limit = self.codec.limit_bytes(like, masks=masks) + REPORT_OVERHEAD_BYTES
        opened = self.receiver.open(envelope, manifest.context, client_id, limit)
        if last is not None and check_fresh((last.seq, last.digest), opened) == "resend":
            raise ReplayError(f"this report was counted in round {last.round_num}")
        report = unpack(opened.payload, max_examples=self.max_examples)
        update = self.codec.decode(report.payload, like, masks=masks)
        check_finite(update)
        result = Result(client_id, update, report.num_examples, report.metrics, len(envelope))
        return result, Counted(manifest.round_num, client_id, opened.seq, opened.digest)
