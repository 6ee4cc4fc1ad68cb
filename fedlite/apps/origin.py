"""How the initial model is made, in words: a device that can make it itself need not be sent it."""

import json

from fedlite.apps.settings import JobSettings
from fedlite.errors import FedliteError, OriginError
from fedlite.modules import shapes_of
from fedlite.seeds import derive
from fedlite.student_settings import StudentSettings
from fedlite.types import Params

_FIELDS = ("channels", "energy", "fedpara", "bits")  # what a student is, before it learns


def write_origin(spec: str, settings: JobSettings) -> str:
    """JSON of the model's ModelSpec and what is done to it first; nothing where it begins with a file."""
    if settings.start is not None:
        return ""
    return json.dumps({"model": spec, **{name: getattr(settings, name) for name in _FIELDS}}, sort_keys=True)


def make_origin(text: str, seed: int, max_parameters: int) -> Params:
    """The initial model of a run with that seed. OriginError where this device cannot make it.

    It begins with a model of `max_parameters` at most. It is the server's to the bit, or it will not be used: a
    version's hash is checked before anything is trained.
    """
    from fedlite.student import make

    try:
        values = json.loads(text)
        spec = values.pop("model")
        settings = StudentSettings(**{name: values[name] for name in _FIELDS})
        count = sum(value.size for value in shapes_of(spec, settings.bits).values())
        if count > max_parameters:
            raise OriginError(
                f"the initial model has {count} parameters, this device takes {max_parameters} at most"
            )
        return make(spec, settings, derive(seed, "model"))[1]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        FedliteError,
        ImportError,
    ) as error:
        raise OriginError(f"the initial model cannot be made here: {error}") from error
