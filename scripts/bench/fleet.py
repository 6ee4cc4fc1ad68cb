"""500 connected clients on one server: 20 rounds, 10 % of the connections cut in each, every reply counted once.

    python scripts/bench/fleet.py [--clients 500] [--rounds 20] [--cut 0.1] [--processes 5] [--seed 1] [--quick]

The clients are real `LinkClient`s without torch, each with its own certificate and TLS connection, many to a
process. They reach the server through a TCP proxy in a process of its own, which cuts random connections while
a round is under way. Everything stays on the loopback interface. `server_rss_mb` (10^6 bytes) is this script's
own process at the end: the server, the grid and nothing else.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from local import (
    children,
    make_authority,
    make_server,
    memory_bytes,
    raise_file_limit,
    read_device,
    report,
    setting,
    write_device,
)

from fedlite.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from fedlite.link.client import LinkClient
from fedlite.link.grid import LinkGrid

PAYLOAD_BYTES = 10_000
PATIENCE_SECONDS = 120.0


def run_clients(address: str, folders: list[str]) -> None:
    """Role of a child: one LinkClient per folder, each on a thread, until the process ends."""
    stop = threading.Event()

    def handle(message: Message) -> Message:
        time.sleep(random.SystemRandom().uniform(0.0, 0.2))  # so that cuts fall before, in and after the work
        return Message(message.content, reply_to=message)

    threads = []
    for folder in folders:
        client = LinkClient(address, read_device(Path(folder)), handle, stop=stop)
        threads.append(threading.Thread(target=client.run, daemon=True))
        threads[-1].start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()


async def run_proxy(target: str, seed: int) -> None:
    """Role of a child: prints its address; each line N on stdin cuts N random connections, and prints how many."""
    raise_file_limit(8192)
    host, _, port = target.rpartition(":")
    open_now: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
    rng = random.Random(seed)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, far_writer)
        open_now.append(pair)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        open_now.remove(pair)

    def cut(count: int) -> int:
        chosen = rng.sample(open_now, min(count, len(open_now)))
        for pair in chosen:
            for writer in pair:
                writer.transport.abort()
        return len(chosen)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1024)
    print(f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(cut(int(line)), flush=True)


class Cutter:
    """The proxy process, seen from here."""

    def __init__(self, target: str, seed: int) -> None:
        command = [sys.executable, __file__, "--role", "proxy", "--target", target, "--seed", str(seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self.address = self._stdout.readline().strip()

    def cut(self, count: int) -> int:
        print(count, file=self._stdin, flush=True)
        return int(self._stdout.readline())


def play_round(grid: LinkGrid, cutter: Cutter, nodes: list[int], round_num: int, cuts: int) -> Counter[str]:
    """How often each message of this round was answered; with 10 % of the connections cut on the way."""
    data = round_num.to_bytes(4, "big") * (PAYLOAD_BYTES // 4)
    content = RecordDict(
        {
            "config": ConfigRecord({"round": round_num}),
            "model": ArrayRecord({"all": Array("uint8", (len(data),), "fedlite.v1", data)}),
        }
    )
    ids = grid.push_messages([Message(content, dst_node_id=node, message_type="train") for node in nodes])
    missing, answered = set(ids), Counter[str]()
    left, end = [cuts // 2, cuts - cuts // 2], time.monotonic() + PATIENCE_SECONDS
    began = time.monotonic()
    while missing and time.monotonic() < end:
        if left and time.monotonic() - began > 0.05 * (3 - len(left)):
            cutter.cut(left.pop())
        for reply in grid.pull_messages(ids):
            if reply.has_error() or reply.content["model"]["all"].data != data:
                sys.exit(f"round {round_num}: a wrong reply")
            answered[reply.metadata.reply_to_message_id] += 1
            missing.discard(reply.metadata.reply_to_message_id)
        grid.wait(0.02)
    return answered


def wait_for_all(grid: LinkGrid, count: int) -> list[int]:
    end = time.monotonic() + PATIENCE_SECONDS
    while len(grid.get_node_ids()) < count:
        if time.monotonic() > end:
            sys.exit(f"only {len(grid.get_node_ids())} of {count} clients connected")
        grid.wait(1.0)
    return grid.get_node_ids()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cut", type=float, default=0.1, help="share of connections cut in each round [0.1]")
    parser.add_argument("--processes", type=int, default=5, help="the clients are spread over these [5]")
    parser.add_argument("--seed", type=int, default=1, help="which connections are cut [1]")
    parser.add_argument("--quick", action="store_true", help="50 clients, 5 rounds, 2 processes")
    parser.add_argument("--role", choices=["clients", "proxy"], help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("folders", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "clients":
        return run_clients(options.target, options.folders)
    if options.role == "proxy":
        return asyncio.run(run_proxy(options.target, options.seed))
    if options.quick:
        options.clients, options.rounds, options.processes = 50, 5, 2
    raise_file_limit(8192)
    with tempfile.TemporaryDirectory() as folder, children() as started:
        figures = measure(options, Path(folder), started)
    settings = setting(
        rounds=options.rounds,
        cut=options.cut,
        client_processes=options.processes,
        payload_bytes=PAYLOAD_BYTES,
        seed=options.seed,
    )
    report(figures, settings)
    if figures["replies_counted"] != figures["replies_expected"] or figures["duplicates"]:
        sys.exit("replies were lost or counted twice")


def measure(
    options: argparse.Namespace, folder: Path, started: list[subprocess.Popen[str]]
) -> dict[str, Any]:
    authority = make_authority(folder / "authority")
    devices = [str(write_device(authority, folder, f"{n:04d}")) for n in range(options.clients)]
    server = make_server(authority)
    cutter = Cutter(server.start(), options.seed)
    started.append(cutter.process)
    grid = LinkGrid(server, run_id=1)
    for number in range(options.processes):
        command = [sys.executable, __file__, "--role", "clients", "--target", cutter.address]
        log = (folder / f"clients-{number}.log").open("w")
        started.append(
            subprocess.Popen([*command, *devices[number :: options.processes]], stderr=log, text=True)
        )
        log.close()
    began = time.monotonic()
    nodes = wait_for_all(grid, options.clients)
    print(f"{len(nodes)} clients connected after {time.monotonic() - began:.1f} s", flush=True)
    cuts, answered, seconds = round(options.clients * options.cut), Counter[str](), []
    for round_num in range(1, options.rounds + 1):
        began = time.monotonic()
        this = play_round(grid, cutter, nodes, round_num, cuts)
        seconds.append(time.monotonic() - began)
        answered += this
        print(
            f"round {round_num:2}: {len(this)} replies, {cuts} connections cut, {seconds[-1]:.2f} s",
            flush=True,
        )
    exchange = server.exchange
    figures = {
        "clients": len(nodes),
        "replies_expected": len(nodes) * options.rounds,
        "replies_counted": sum(answered.values()),
        "duplicates": sum(answered.values()) - len(answered),
        "server_rss_mb": round(memory_bytes() / 1e6, 1),
        "duplicates_refused_by_the_link": exchange.dropped_replies,
        "connections_cut": cuts * options.rounds,
        "round_seconds_median": sorted(seconds)[len(seconds) // 2],
    }
    server.stop()
    return figures


if __name__ == "__main__":
    main()
