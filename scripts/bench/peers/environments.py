"""An environment for each peer that needs one of its own, made once with pip and kept under run/peers."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

TORCH = "torch==2.13.0"  # also the constraint: pip must not take a newer one, with gigabytes of CUDA
PINS = {
    "blazefl": (TORCH, "numpy==2.4.6", "tqdm", "blazefl==2.0.3"),
    "pfl": (TORCH, "numpy==2.4.6", "pfl==0.6.0"),
    "fedjax": (  # the newest JAX that has what FedJAX calls, and the Haiku of that time
        *("fedjax==0.0.17", "dm-haiku==0.0.13", "jax==0.4.30", "jaxlib==0.4.30", "numpy==2.2.6"),
    ),
    "jax": ("jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6"),
}
NEWER = ("python3.12", "python3.13")  # BlazeFL asks for 3.12; 3.11 runs what is used of it


class Unavailable(Exception):
    """An environment that cannot be made; the message says why."""


def interpreter(name: str, folder: Path) -> str:
    """The python of a peer's environment, which is made if it is not there. Unavailable if pip cannot."""
    if name == "own":
        return sys.executable
    place = folder / name
    python, stamp = place / "bin/python", place / f"made-{_digest(PINS[name])}"
    if not stamp.exists():
        shutil.rmtree(place, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"making the environment of {name} (once): {' '.join(PINS[name])}", file=sys.stderr, flush=True)
        _make(name, place, python)
        stamp.touch()
    return str(python)


def _make(name: str, place: Path, python: Path) -> None:
    newer = next((found for each in NEWER if (found := shutil.which(each)) and _works(found)), None)
    base = newer if name == "blazefl" and newer else sys.executable
    _run([base, "-m", "venv", str(place)])
    (place / "constraints.txt").write_text(f"{TORCH}\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(place / "constraints.txt")]
    pins = PINS[name]
    if name == "blazefl" and not newer:
        _run([*pip, *pins[:-1]])
        _run([*pip, "--no-deps", "--ignore-requires-python", pins[-1]])
    else:
        _run([*pip, *pins])


def _works(python: str) -> bool:
    """A version manager's stand-in is there and yet no python."""
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Unavailable((errors or done.stderr.splitlines() or ["failed without a word"])[-1])


def _digest(pins: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(pins).encode()).hexdigest()[:12]
