"""The process that `parity` starts: it runs an exported file as a device does, without torch, and measures itself.

    python -m fedlite.export.fresh RUNTIME FILE X.npy LOGITS.npy THREADS SECONDS

One JSON line: latency of one example, p50 and p95 in milliseconds, and the process's resident bytes (VmRSS, Linux)
once it has answered one example; null where the system does not tell.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from fedlite.errors import FedliteError
from fedlite.export.runtimes import Run, load

BATCH = 64  # examples at a time for the answers
LEAST, MOST = 20, 2000  # timed calls


def main() -> int:
    """Run the file."""
    name, file, x_file, logits_file, threads, seconds = sys.argv[1:]
    x = np.load(x_file, mmap_mode="r", allow_pickle=False)
    try:
        run = load(name).open(Path(file), int(threads))
        run(np.array(x[:1]))
        figures = {"resident_bytes": resident_bytes(), **latency(run, np.array(x[:1]), float(seconds))}
        logits = [run(np.array(x[start : start + BATCH])) for start in range(0, len(x), BATCH)]
    except FedliteError as error:
        print(json.dumps({"error": error.args[0]}))
        return 1
    np.save(logits_file, np.concatenate(logits))
    print(json.dumps(figures))
    return 0


def latency(
    run: Run, example: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", seconds: float
) -> dict[str, float]:
    """Milliseconds that one call takes, after three that do not count."""
    for _ in range(3):
        run(example)
    taken: list[float] = []
    while len(taken) < LEAST or (sum(taken) < seconds and len(taken) < MOST):
        began = time.perf_counter()
        run(example)
        taken.append(time.perf_counter() - began)
    p50, p95 = np.percentile(taken, (50, 95)) * 1e3
    return {"p50_ms": round(float(p50), 4), "p95_ms": round(float(p95), 4)}


def resident_bytes() -> int | None:
    """What this process holds in memory now."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    sys.exit(main())
