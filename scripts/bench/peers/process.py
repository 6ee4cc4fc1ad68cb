"""One adapter's process, from start to end: its figures, or the line that says why there are none."""

import json
import os
import re
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workload import Workload

ROOT = Path(__file__).resolve().parents[3]


def figures_of(python: list[str], work: Workload, limit: float) -> dict[str, Any]:
    """An adapter's figures. It and what it started end with this, by the process group that it leads."""
    command = [*python, json.dumps(asdict(work))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.setdefault("FEDLITE_DATA", str(ROOT.parent / "shared" / "data"))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        cwd=ROOT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return {"error": f"not done in {limit:.0f} s"}
        finally:
            _end(process)
    try:
        found = next(line for line in reversed(out.splitlines()) if line.startswith('{"clients_s"'))
    except StopIteration:
        return {"error": _reason(err or out) or f"no result, exit code {process.returncode}"}
    return dict(json.loads(found))


def _reason(text: str) -> str:
    """Of an adapter's last words, the line that names an error."""
    words = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in words if re.match(r"(\[rank\d\]: )?[\w.]*(Error|Exception|Exit)\b", line)]
    return (named or words or [""])[-1][:300]


def _end(process: subprocess.Popen[str]) -> None:
    """Nothing of an adapter may go on beside the next one."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
