"""The student as a run begins with it: from a file or anew, its channels cut, its layers factorized. Loads torch."""

from fedlite.compress import quantize
from fedlite.compress.lowrank import factorize, fedpara
from fedlite.compress.structured import prune_channels
from fedlite.models import ModelSpec, initial_params
from fedlite.models.registry import skeleton
from fedlite.models.saved import load_model
from fedlite.student_settings import StudentSettings
from fedlite.types import Params


def make(spec: str, settings: StudentSettings, seed: int) -> tuple[str, Params]:
    """(ModelSpec as JSON, first parameters) of the student of the model `spec`.

    A `start` file replaces the model by its own, which must take the same examples. Channels go before layers are
    factorized. Below 32 bits, activation ranges are begun where the file has none. SettingsError for what does not
    fit the model.
    """
    chosen, params = _begin(ModelSpec.from_json(spec), settings, seed)
    if settings.channels:
        chosen, params = prune_channels(chosen, params, settings.channels)
    if settings.energy < 1:
        chosen, params = factorize(chosen, params, energy=settings.energy)
    if settings.fedpara:
        chosen = fedpara(chosen, gamma=settings.fedpara)
    fresh = initial_params(quantize.at(skeleton(chosen), settings.bits), seed)
    return chosen.to_json(), {name: params.get(name, value) for name, value in fresh.items()}


def _begin(spec: ModelSpec, settings: StudentSettings, seed: int) -> tuple[ModelSpec, Params]:
    """The model before anything is done to it, at 32 bits or at its file's."""
    if settings.start is None:
        return spec, initial_params(skeleton(spec), seed)
    saved = load_model(settings.start)
    return saved.spec, saved.params
