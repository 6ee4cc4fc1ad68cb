"""Time to seal and open, against the time the bytes take at 10 Mbit/s:  python -m tests.vectors.envelope_v1.bench"""

import os
import statistics
import time
from collections.abc import Callable

from fedlite.crypto.identity import Identity
from fedlite.crypto.seal import Context, open_sealed, seal

BITS_PER_SECOND = 10e6


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    device, server = Identity.generate(), Identity.generate()
    context = Context(1, bytes(16), 1, 0, bytes(32), bytes(32))
    members = {device.public.key_id: device.public}
    print("payload_bytes  seal_ms  open_ms  share of transfer at 10 Mbit/s")
    for size in (2_000, 100_000, 2_000_000, 10_000_000):
        payload, repeats = os.urandom(size), max(5, min(300, 20_000_000 // size))
        envelope = seal(device, server.public, payload, context, 1)
        sealing = median_seconds(lambda p=payload: seal(device, server.public, p, context, 1), repeats)
        opening = median_seconds(
            lambda e=envelope, n=size: open_sealed(
                server, e, context, find_sender=members.get, max_payload_bytes=n
            ),
            repeats,
        )
        share = (sealing + opening) / (size * 8 / BITS_PER_SECOND)
        print(f"{size:13}  {sealing * 1e3:7.2f}  {opening * 1e3:7.2f}  {share:.2%}")


if __name__ == "__main__":
    main()
