"""Models that devices make themselves: the server's to the bit, and none beyond what a device takes."""

import json

import numpy as np
import pytest

from fedlite.apps.origin import make_origin, write_origin
from fedlite.apps.settings import JobSettings
from fedlite.errors import OriginError
from fedlite.models.registry import resolve
from fedlite.seeds import derive
from fedlite.student import make
from fedlite.student_settings import StudentSettings

SPEC = resolve(
    "2nn", {"input_shape": (1, 8, 8), "num_classes": 10}
).to_json()  # 64·200 + 200·200 + 200·10 + 410
PARAMETERS = 55_210


def test_the_same_bytes_as_the_server() -> None:
    text = write_origin(SPEC, JobSettings(channels=0.5, bits=32))
    found = make_origin(text, 7, PARAMETERS)
    wanted = make(SPEC, StudentSettings(channels=0.5, bits=32), derive(7, "model"))[1]
    assert found.keys() == wanted.keys()
    assert sum(value.size for value in found.values()) < PARAMETERS / 2
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_none_beyond_what_the_device_takes() -> None:
    text = write_origin(SPEC, JobSettings(bits=32))
    assert sum(value.size for value in make_origin(text, 1, PARAMETERS).values()) == PARAMETERS
    with pytest.raises(OriginError, match="55210 parameters, this device takes 55209"):
        make_origin(text, 1, PARAMETERS - 1)


@pytest.mark.parametrize(
    "text", ["", "{}", "[" * 60_000, "5", json.dumps({"model": SPEC}), json.dumps({"model": "no"})]
)
def test_what_says_nothing(text: str) -> None:
    with pytest.raises(OriginError):
        make_origin(text, 1, PARAMETERS)
