"""The process that fedlite.profile.memory starts: a line of JSON asks, a line of JSON answers.

    python -m fedlite.profile.fresh < asks.jsonl

It loads torch once, and forks for each ask before anything has computed, so that no model's memory is another's. The
peak is the kernel's own (VmHWM of /proc/self/status), begun again at the loaded process by clear_refs: Linux,
proc(5). Before each measurement memory that is free but kept by the allocator is given back, so that it cannot hide
what the model needs.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedlite.errors import FedliteError
from fedlite.profile.examples import Example

EXPORTED = "an exported file does not train"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> int:
    """Answer until standard input ends."""
    import fedlite.models
    import fedlite.train  # noqa: F401  (loaded here, so that no fork has to)

    for line in sys.stdin:
        print(json.dumps(apart(json.loads(line))), flush=True)
    return 0


def apart(ask: dict[str, Any]) -> dict[str, int | str]:
    """`figures` in a forked process; `error` says why it gave none."""
    if not hasattr(os, "fork") or not CLEAR.exists():
        return {"error": "the peak of memory is told by Linux's /proc/self only"}
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        answer: dict[str, int | str] = {"error": "it failed"}
        try:
            answer = figures(ask)
        except Exception as error:
            answer = {"error": f"it failed: {type(error).__name__} {str(error)[:160]}"}
        finally:
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return {"error": "the process was killed, as the system does when memory runs out"}
    return dict(json.loads(text)) if text else {"error": f"the process ended with status {status}"}


def figures(ask: dict[str, Any]) -> dict[str, int | str]:
    """Bytes by name; a text in place of a number says why there is none."""
    import torch

    from fedlite.compress import quantize
    from fedlite.models import ModelSpec, build, params_of
    from fedlite.profile.memory import saved_bytes

    torch.set_num_threads(ask["threads"])
    example = Example(tuple(ask["shape"]), ask["symbols"])
    if ask["file"]:
        return _exported(ask, example)
    load_libraries()
    net = quantize.at(build(ModelSpec.from_json(ask["spec"])), ask["bits"])
    params = params_of(net)
    x, trained = example.batch(ask["batch"]), example.batch(ask["train_batch"])

    def infer() -> None:
        with torch.no_grad():
            net.eval()(torch.from_numpy(x))

    return {
        "activation": peak(infer),
        "training": peak(lambda: _train(net, params, trained, ask["bits"])),
        "saved": _told(lambda: saved_bytes(net, torch.from_numpy(trained))),
    }


def _exported(ask: dict[str, Any], example: Example) -> dict[str, int | str]:
    """The first answer of a file that ONNX Runtime has loaded; it does not train."""
    from fedlite.profile.onnx_source import runner

    activation = peak(runner(Path(ask["file"]), example, ask["batch"], ask["threads"]))
    return {"activation": activation, "training": EXPORTED, "saved": EXPORTED}


def _train(net: Any, params: Any, x: Any, bits: int) -> None:
    """Two steps, as a client takes them: the second has what the first left."""
    import numpy as np

    from fedlite.train import TrainSettings, local_train

    settings = TrainSettings(epochs=2, batch_size=len(x), learning_rate=1e-6, bits=bits)
    y = np.zeros(len(x), np.int64)
    if hasattr(net, "loss"):  # a detector, whose labels are boxes: class, x1, y1, x2, y2
        y = np.tile(np.array([1, 0, 0, x.shape[-1] // 2, x.shape[-2] // 2]), (len(x), 1, 1))
    local_train(net, params, x, y, settings, seed=0)


def load_libraries() -> None:
    """Take the first steps of a small network, so that what torch loads and keeps once is not the model's."""
    import numpy as np

    from fedlite.models import build, params_of

    net = build("small_cnn")
    _train(net, params_of(net), np.zeros((2, 1, 8, 8), np.float32), 32)


def peak(work: Callable[[], object]) -> int | str:
    """Bytes that resident memory rose to above what it was before, or why this cannot be told."""
    give_back()
    try:
        CLEAR.write_text("5")
        before = _status("VmRSS")
        reason = _told(work)
        risen = _status("VmHWM") - before
    except OSError as error:
        return f"the peak of memory is told by Linux's /proc/self only ({error.strerror})"
    return reason if isinstance(reason, str) else max(0, risen)


def _told(work: Callable[[], Any]) -> Any:
    """What `work` returns, or as a text why it cannot be done."""
    try:
        return work()
    except (FedliteError, RuntimeError, MemoryError, TypeError, AttributeError) as error:
        return f"the network does not do this ({str(error)[:160]})"


def give_back() -> None:
    """Return freed memory to the system, where the C library is glibc."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def _status(field: str) -> int:
    [line] = [each for each in STATUS.read_text().splitlines() if each.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
