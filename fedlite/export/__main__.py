"""Write a trained model as the int8 file of the runtime that will run it, run that, and compare the answers.

    python -m fedlite.export run/model.safetensors --data digits
    python -m fedlite.export run/model.safetensors --runtime onnxruntime --out model.onnx --data mnist
    python -m fedlite.export run/model.safetensors --data my-images/ --samples 200 --json
    python -m fedlite.export run/model.safetensors --data x.npy

MODEL is a model.safetensors or model.int8.safetensors that fedlite wrote. One trained with --bits 8 keeps the ranges it
was trained with; a float32 one gets them from training examples of --data, and loses more. The file is written whole
or not at all, then run in a process of its own: if fewer than 99 of 100 held-out examples get the answer they get in
torch, the exit code is 1. More in docs/export.md.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from fedlite.config import parse
from fedlite.errors import FedliteError, SettingsError
from fedlite.export.config import Config

FAILED, BAD_SETTINGS = 1, 2


def body(argv: Sequence[str]) -> int:
    """Parse and export."""
    model, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("", argv)
    if not model and not {"-h", "--help"} & set(rest):
        raise SettingsError(
            "MODEL is missing: the file to export",
            remedy="python -m fedlite.export run/model.safetensors --data digits",
        )
    config = parse(Config, rest, prog="python -m fedlite.export MODEL", description=__doc__ or "")
    from fedlite.export.command import export

    return export(Path(model), config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; a FedliteError becomes one line on standard error and an exit code: 2 for settings, 1 for the rest."""
    try:
        return body(sys.argv[1:] if argv is None else argv)
    except FedliteError as error:
        text = "".join(
            each if each.isprintable() else "?" for each in str(error)
        )  # some of it may be a file's
        print(f"error: {text}", file=sys.stderr)
        return BAD_SETTINGS if isinstance(error, SettingsError) else FAILED


if __name__ == "__main__":
    sys.exit(main())
