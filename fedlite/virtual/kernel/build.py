"""The kernel's library: compiled for this machine at first use, kept in the user's cache, loaded with ctypes."""

import ctypes
import functools
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from fedlite.errors import SettingsError

SOURCES = Path(__file__).parent / "src"
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread")
NATIVE = (("-march=native",), ("-mcpu=native",), ())  # which one a compiler takes depends on the processor
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 600  # to compile; it takes about 10


def available() -> str | None:
    """None when the kernel works here, otherwise why not. Builds it if that was not done yet."""
    found = _attempt()
    return found if isinstance(found, str) else None


def library() -> ctypes.CDLL:
    """The loaded kernel. SettingsError, with the reason, where it cannot be built."""
    found = _attempt()
    if isinstance(found, str):
        raise SettingsError(
            f"the compiled kernel is not available: {found}",
            remedy="install a C++17 compiler, or train with torch",
        )
    return found


@functools.cache
def _attempt() -> ctypes.CDLL | str:
    try:
        found = ctypes.CDLL(str(compiled(SOURCES, cache_folder())))
        return found if _draws_as_numpy(found) else "this NumPy draws other permutations than the kernel"
    except (OSError, subprocess.SubprocessError, SettingsError) as error:
        return str(error)


def _draws_as_numpy(kernel: ctypes.CDLL) -> bool:
    """Clients take their examples in the same order here and on a device; NumPy may change how it draws."""
    order = np.empty(50, np.int64)
    kernel.fedlite_permutation(
        ctypes.c_uint64(2**40 + 1), ctypes.c_void_p(order.ctypes.data), ctypes.c_int64(len(order))
    )
    return bool((order == np.random.default_rng(2**40 + 1).permutation(len(order))).all())


def compiled(sources: Path, folder: Path) -> Path:
    """The library of all `sources`/*.cpp, in a file named by the hash of all it depends on.

    Several processes may build it at once. SettingsError without a compiler, or with what the compiler says.
    """
    compiler, native, target = _compiler()
    units = sorted(sources.glob("*.cpp"))
    state = hashlib.sha256(" ".join([*FLAGS, *native, *(unit.name for unit in units)]).encode() + target)
    for source in sorted(sources.iterdir()):
        state.update(source.name.encode() + b"\0" + source.read_bytes())
    library = folder / f"{state.hexdigest()[:32]}.so"
    if not library.is_file():
        handle, name = tempfile.mkstemp(suffix=".tmp", dir=folder)
        os.close(handle)
        try:
            _run([compiler, *FLAGS, *native, *map(str, units), "-o", name])
            os.replace(name, library)
        finally:
            Path(name).unlink(missing_ok=True)
    return library


def _compiler() -> tuple[str, tuple[str, ...], bytes]:
    """A compiler, its flags for this processor, and its macros: version and instruction set in one."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    for compiler in filter(None, map(shutil.which, names)):
        for native in NATIVE:
            done = _run([compiler, *native, "-dM", "-E", "-x", "c++", os.devnull], check=False)
            if done.returncode == 0:
                return compiler, native, done.stdout
    raise SettingsError(f"there is no C++ compiler (looked for {', '.join(names)})")


def _run(command: list[str], check: bool = True) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    if check and done.returncode:
        raise SettingsError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[:300]}")
    return done


def cache_folder() -> Path:
    """$FEDLITE_CACHE, else the user's cache. SettingsError if others could put a library there."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("FEDLITE_CACHE") or Path(home) / "fedlite") / "kernel"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"others can write to {folder}: chmod 700, or set FEDLITE_CACHE")
    return folder
