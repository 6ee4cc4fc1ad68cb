"""The link against Flower's own: no-op rounds side by side, server memory for large payloads, the cost of sealing.

    python scripts/bench/link.py [--quick] [--stock-rounds 5] [--rounds 200] [--memory-rounds 3] [--skip-stock]

Two clients everywhere, each a process of its own, over TLS on the loopback interface:

* stock: flower-superlink and two flower-supernode processes with TLS and node authentication, started by
  `flwr supernode register` and `flwr run`; a ServerApp that sends each node an empty query and times
  `grid.send_and_receive`. Ours: the same messages, the same timing, on LinkGrid with mutual TLS. Medians.
* memory: a fresh server process sends one payload to both clients, and each sends it back. The peak is
  VmHWM after that minus VmRSS before the payload was made, with both clients connected; divided by the
  payload. All that is held counts: the payload itself, two replies, and what is on its way.
* sealing: seal and open of 100 kB in one process, against 100 kB at 10 Mbit/s (0.08 s).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from local import (
    children,
    forget_peak,
    make_authority,
    make_server,
    memory_bytes,
    read_device,
    report,
    setting,
    write_device,
)
from stock import time_rounds

from fedlite.crypto.identity import Identity
from fedlite.crypto.seal import Context, open_sealed, seal
from fedlite.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from fedlite.link.client import LinkClient
from fedlite.link.grid import LinkGrid

CLIENTS = 2
SEALED_BYTES = 100_000
LINK_BITS_PER_SECOND = 10e6


def run_client(address: str, folder: str) -> None:
    """Role of a child: sends back what it gets."""
    client = LinkClient(
        address,
        read_device(Path(folder)),
        lambda message: Message(message.content, reply_to=message),
        stop=threading.Event(),
    )
    client.run()


def run_server(payload_bytes: int, rounds: int) -> None:
    """Role of a child: a server and its two clients; prints seconds by round and its memory, as JSON."""
    with tempfile.TemporaryDirectory() as name, children() as started:
        folder = Path(name)
        authority = make_authority(folder / "authority")
        server = make_server(authority)
        address, grid = server.start(), LinkGrid(server, run_id=1)
        for number in range(CLIENTS):
            device = write_device(authority, folder, str(number))
            command = [sys.executable, __file__, "--role", "client", "--target", address, str(device)]
            started.append(subprocess.Popen(command))
        while len(grid.get_node_ids()) < CLIENTS:
            grid.wait(5.0)
        play(grid, 0, 3)
        idle = memory_bytes()
        forget_peak()
        seconds = play(grid, payload_bytes, rounds)
        peak = memory_bytes("VmHWM")
    server.stop()
    print(json.dumps({"seconds": seconds, "idle_bytes": idle, "peak_bytes": peak}))


def play(grid: LinkGrid, payload_bytes: int, rounds: int) -> list[float]:
    return [play_round(grid, payload_bytes, round_num) for round_num in range(rounds)]


def play_round(grid: LinkGrid, payload_bytes: int, round_num: int) -> float:
    """Seconds from the push to the last reply; nothing of a round is held in the next."""
    content = RecordDict({"c": ConfigRecord({"round": round_num})})
    data = os.urandom(payload_bytes)
    if payload_bytes:
        content["a"] = ArrayRecord({"all": Array("uint8", (payload_bytes,), "fedlite.v1", data)})
    messages = [Message(content, dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
    began = time.perf_counter()
    replies = grid.send_and_receive(messages, timeout=120.0)
    seconds = time.perf_counter() - began
    if len(replies) != CLIENTS or any(reply.has_error() for reply in replies):
        sys.exit("a reply is missing or an error")
    if payload_bytes and any(reply.content["a"]["all"].data != data for reply in replies):
        sys.exit("a reply is not what was sent")
    return seconds


def measure_ours(payload_bytes: int, rounds: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--role", "server", "--payload", str(payload_bytes)]
    done = subprocess.run([*command, "--rounds", str(rounds)], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_stock(rounds: int) -> list[float]:
    with tempfile.TemporaryDirectory() as name, children() as started:
        authority = make_authority(Path(name) / "authority")
        return time_rounds(Path(name), authority, CLIENTS, rounds, started)


def measure_sealing(repeats: int = 50) -> tuple[int, float]:
    """(bytes of overhead, median seconds of seal + open) for 100 kB."""
    sender, recipient = Identity.generate(), Identity.generate()
    payload = os.urandom(SEALED_BYTES)
    seconds = []
    for seq in range(repeats):
        context = Context(1, bytes(16), seq, 0, bytes(32), bytes(32))
        began = time.perf_counter()
        envelope = seal(sender, recipient.public, payload, context, seq)
        opened = open_sealed(
            recipient,
            envelope,
            context,
            find_sender=lambda key_id: sender.public,
            max_payload_bytes=SEALED_BYTES,
        )
        seconds.append(time.perf_counter() - began)
        if opened.payload != payload:
            sys.exit("what was opened is not what was sealed")
    return len(envelope) - len(payload), statistics.median(seconds)


def peak_ratio(megabytes: int, rounds: int) -> float:
    measured = measure_ours(megabytes * 10**6, rounds)
    growth = measured["peak_bytes"] - measured["idle_bytes"]
    print(
        f"  {megabytes} MB: idle {measured['idle_bytes'] / 1e6:.0f} MB, peak {measured['peak_bytes'] / 1e6:.0f} MB, "
        f"{statistics.median(measured['seconds']):.2f} s a round",
        flush=True,
    )
    return round(growth / (megabytes * 10**6), 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200, help="no-op rounds on LinkGrid [200]")
    parser.add_argument("--stock-rounds", type=int, default=5, help="no-op rounds on the SuperLink [5]")
    parser.add_argument("--memory-rounds", type=int, default=3, help="rounds per payload size [3]")
    parser.add_argument("--quick", action="store_true", help="1 stock round, 50 of ours: under two minutes")
    parser.add_argument(
        "--skip-stock", action="store_true", help="leave the stock half out; no speed-up is printed"
    )
    parser.add_argument("--role", choices=["client", "server"], help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--payload", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "client":
        return run_client(options.target, options.folder)
    if options.role == "server":
        return run_server(options.payload, options.rounds)
    if options.quick:
        options.rounds, options.stock_rounds, options.memory_rounds = 50, 1, 1
    compare(options)


def compare(options: argparse.Namespace) -> None:
    stock = [] if options.skip_stock else measure_stock(options.stock_rounds)
    print(f"stock rounds: {[round(each, 2) for each in stock]} s", flush=True)
    ours = statistics.median(measure_ours(0, options.rounds)["seconds"])
    print(f"our rounds: {ours * 1000:.2f} ms, median of {options.rounds}", flush=True)
    overhead, sealing = measure_sealing()
    figures = {
        "round_speedup": round(statistics.median(stock) / ours, 1) if stock else None,
        "round_seconds": round(ours, 6),
        "stock_round_seconds": round(statistics.median(stock), 3) if stock else None,
        "peak_ratio_10mb": peak_ratio(10, options.memory_rounds),
        "peak_ratio_100mb": peak_ratio(100, options.memory_rounds),
        "seal_overhead_bytes": overhead,
        "seal_share_percent": round(100 * sealing / (SEALED_BYTES * 8 / LINK_BITS_PER_SECOND), 2),
    }
    settings = setting(
        clients=CLIENTS,
        rounds=options.rounds,
        stock_rounds=len(stock),
        memory_rounds=options.memory_rounds,
        peak_ratio="(VmHWM - idle VmRSS) / payload, the payload counted",
        seeds="none: payloads are random bytes",
    )
    report(figures, settings)


if __name__ == "__main__":
    main()
