"""The demo: a real server and three real devices on this machine, each a process of its own.

The digits are divided among the devices by a Dirichlet(0.5) draw, so that each knows some digits far better than
others. They train one small network together: half of its weights pruned, the rest int8. The last line is JSON.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("kitchen-pi", "garden-pi", "attic-pi")
TRAINING = (
    "--rounds",
    "25",
    "--epochs",
    "2",
    "--batch-size",
    "16",
    "--learning-rate",
    "0.05",
    "--momentum",
    "0.5",
)
PRUNING = ("--sparsity", "0.5", "--prune-round", "3", "--bits", "8")
CODECS = ("--uplink-codec", "sparse", "--downlink-codec", "exact")


def main() -> int:
    parser = argparse.ArgumentParser(prog="./scripts/demo", description=__doc__)
    parser.add_argument("--state-dir", type=Path, default=ROOT / "run" / "demo", help="made anew each time")
    state = parser.parse_args().state_dir
    if state.exists() and not (state / "server" / "ca.pem").exists() and any(state.iterdir()):
        raise SystemExit(f"{state} exists and is not an earlier demo's: give another --state-dir")
    shutil.rmtree(state, ignore_errors=True)
    began = time.monotonic()
    devices: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        server = stack.enter_context(start_server(state))
        for index, name in enumerate(NAMES):
            code = run("server", "invite", name, "--state-dir", state / "server")
            print(f"$ python -m server invite {name}\n{code}", flush=True)
            joined = run("client", "join", code, "--state-dir", state / name)
            print(f"$ python -m client join {code[:12]}…\n{joined}", flush=True)
            devices.append(stack.enter_context(start_device(state / name, index)))
        while server.poll() is None:
            for name, device in zip(NAMES, devices, strict=True):
                if device.poll() is not None:
                    raise SystemExit(f"{name} ended:\n{(state / name / 'device.log').read_text()}")
            time.sleep(0.1)
    if server.returncode:
        return server.returncode
    result = summary(state / "server" / "results") | {"seconds": round(time.monotonic() - began, 1)}
    print(table(result))
    print(json.dumps(result))
    return 0


def summary(folder: Path) -> dict[str, object]:
    """What the run was worth, from the results folder it left."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    model = json.loads((folder / "summary.json").read_text())
    up, down = (
        [client[key] for row in rows for client in row["clients"].values()]
        for key in ("bytes_up", "bytes_down")
    )
    return {
        "accuracy_int8": round(model["accuracy_int8"], 4),
        "uplink_ratio": round(4 * model["parameters"] * len(up) / sum(up), 2),
        "downlink_ratio": round(4 * model["parameters"] * len(down) / sum(down), 2),
        "clients": len(NAMES),
        "rounds": len(rows),
        "bytes_up_per_update": round(sum(up) / len(up)),
        "bytes_float32": model["bytes_float32"],
        "bytes_int8": model["bytes_int8"],
        "results": os.path.relpath(folder, ROOT),
    }


def table(result: dict[str, object]) -> str:
    """For people."""
    return "\n".join(
        [
            "",
            f"test accuracy of the int8 model   {result['accuracy_int8']}",
            f"uplink, against float32           {result['uplink_ratio']}× smaller "
            f"({result['bytes_up_per_update']} bytes per update, sealed)",
            f"downlink, against float32         {result['downlink_ratio']}× smaller",
            f"model file                        {result['bytes_int8']} bytes (float32: {result['bytes_float32']})",
            f"report                            {result['results']}/report.html",
        ]
    )


@contextmanager
def start_server(state: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The server, once it listens; ended in the end."""
    command = [
        *python("server"),
        "--state-dir",
        state / "server",
        "--dataset",
        "digits",
        *TRAINING,
        *PRUNING,
        *CODECS,
    ]
    command += ["--quorum", str(len(NAMES)), "--listen", "127.0.0.1:0", "--join-listen", "127.0.0.1:0"]
    print(
        "$ python -m server --state-dir run/demo/server --dataset digits",
        *TRAINING,
        *PRUNING,
        *CODECS,
        flush=True,
    )
    with process(command) as server:
        while not (state / "server" / "address.json").exists():
            if server.poll() is not None:
                raise SystemExit("the server ended before it listened")
            time.sleep(0.1)
        yield server


@contextmanager
def start_device(state: Path, index: int) -> Iterator["subprocess.Popen[bytes]"]:
    """One device with its share of the digits; what it logs goes to a file beside its state."""
    share = ("--data", f"digits:{index}/{len(NAMES)}", "--partition", "dirichlet:0.5", "--seed", "1")
    command = [*python("client"), "--device", "cpu", "--threads", "1", "--state-dir", state, *share]
    print("$ python -m client --device cpu", *share, flush=True)
    with (state / "device.log").open("wb") as log, process(command, stdout=log, stderr=log) as device:
        yield device


@contextmanager
def process(command: list[object], **streams: object) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is asked to stop, and then made to."""
    with subprocess.Popen([str(part) for part in command], cwd=ROOT, **streams) as child:  # type: ignore[call-overload]
        try:
            yield child
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    child.kill()


def python(module: str) -> list[object]:
    return [sys.executable, "-m", module]


def run(module: str, *arguments: object) -> str:
    """A command's output; its errors end the demo."""
    command = [str(part) for part in (*python(module), *arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
