"""What a model costs on this device; and which model is best within what the device has.

    python -m fedlite.profile cnn
    python -m fedlite.profile mobilenet_v2:width=0.5,num_classes=10 --input 3x96x96 --layers
    python -m fedlite.profile run/demo/model.safetensors --json
    python -m fedlite.profile --search mlp --budget size=30kB,latency=1ms --data digits

Figures are of the device that this runs on; what cannot be measured there is said, with the reason, and not guessed.
"""

import json
import sys
from collections.abc import Sequence

from fedlite.config import parse
from fedlite.errors import FedliteError, SettingsError
from fedlite.profile.config import Config

OK, FAILED, BAD_SETTINGS = 0, 1, 2


def body(argv: Sequence[str]) -> int:
    """Profile, or search."""
    model, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("", argv)
    config = parse(Config, rest, prog="python -m fedlite.profile MODEL", description=__doc__ or "")
    if bool(model) == bool(config.search):
        raise SettingsError(
            "one MODEL or one --search is wanted", remedy="python -m fedlite.profile cnn, or --help"
        )
    if config.search:
        from fedlite.profile.command import search

        return search(config)
    return _profile(model, config)


def _profile(model: str, config: Config) -> int:
    from fedlite.config import parse_shape
    from fedlite.profile.figures import Setup, measure, print_table, record
    from fedlite.profile.source import open_subject

    shape = parse_shape(config.input) if config.input else ()
    setup = Setup(config.batch, config.train_batch, config.threads, config.seconds)
    figures = measure(open_subject(model, shape), setup, shape)
    if config.json:
        print(json.dumps(record(figures)))
    else:
        print_table(figures, layers=config.layers)
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run; a FedliteError becomes one line on standard error and an exit code: 2 for settings, 1 for the rest."""
    try:
        return body(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print("stopped; what was measured is kept, and the same command goes on from there", file=sys.stderr)
        return FAILED
    except FedliteError as error:
        text = "".join(
            each if each.isprintable() else "?" for each in str(error)
        )  # some of it may be a file's
        print(f"error: {text}", file=sys.stderr)
        return BAD_SETTINGS if isinstance(error, SettingsError) else FAILED


if __name__ == "__main__":
    sys.exit(main())
