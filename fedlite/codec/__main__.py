"""How small, how near and how fast: update codecs on a real update of a model.

    python -m fedlite.codec bench                                  every preset, on McMahan's CNN
    python -m fedlite.codec bench --model mobilenet_v2:width=0.5,input_shape=1x28x28 --dataset fashion_mnist
    python -m fedlite.codec bench --codec small step:3+ans topk:0.01+int8+zstd:3
    python -m fedlite.codec list                                   the presets, and the parts to write others with

A codec is filters, one serializer and compressors, joined by +, each with its numbers behind colons. The update is
what a client's local training changes in the model: real, made anew each time, the same for the same --seed.
"""

import os
import sys
from collections.abc import Sequence

from fedlite.errors import FedliteError, SettingsError

OK, FAILED, BAD_SETTINGS = 0, 1, 2
COMMANDS = ("bench", "list")


def body(argv: Sequence[str]) -> int:
    """Measure, or explain."""
    command, rest = (argv[0], argv[1:]) if argv else ("", argv)
    if command in ("-h", "--help"):
        print(__doc__ + "\nAll options: python -m fedlite.codec bench --help")
        return OK
    if command not in COMMANDS:
        said = f"there is no {command!r}" if command else "nothing is asked for"
        raise SettingsError(f"{said}; there are {' and '.join(COMMANDS)}", remedy="see --help")
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # one core, as on the smallest devices; read by libraries once
    from fedlite.codec import command as commands

    return commands.bench(rest, __doc__ or "") if command == "bench" else commands.listed(rest)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; a FedliteError becomes one line on standard error and an exit code: 2 for settings, 1 for the rest."""
    try:
        return body(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return FAILED
    except FedliteError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_SETTINGS if isinstance(error, SettingsError) else FAILED


if __name__ == "__main__":
    sys.exit(main())
