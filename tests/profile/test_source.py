"""Which model a word names, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedlite.apps import model
from fedlite.compress import stored
from fedlite.compress.cluster import Shared
from fedlite.compress.quantize import prepare
from fedlite.config import parse_shape
from fedlite.errors import SettingsError
from fedlite.models import build, initial_params
from fedlite.models.registry import resolve
from fedlite.profile.examples import example_of
from fedlite.profile.source import open_subject
from fedlite.types import is_range

SMALL = resolve("small_cnn", {})


def written(folder: Path, bits: int) -> Path:
    """A model's files as a server writes them."""
    net = prepare(build(SMALL)) if bits == 8 else build(SMALL)
    params = initial_params(net, 3)
    params |= {name: np.array([0, 1], np.float32) for name in params if is_range(name)}
    model.write(folder, SMALL.to_json(), bits, params, {}, None)
    return folder / "model.safetensors"


def test_a_family_with_options() -> None:
    got = open_subject("mobilenet_v2:width=0.5,num_classes=10,norm=batch", (3, 64, 64))
    options = dict(got.spec.options)
    assert (options["width"], options["num_classes"], options["norm"]) == (0.5, 10, "batch")
    assert options["input_shape"] == (3, 64, 64)
    assert open_subject("mlp:hidden=32x16").spec == resolve("mlp", {"hidden": (32, 16)})
    assert dict(open_subject("char_lstm", (20,)).spec.options) == dict(resolve("char_lstm", {}).options)


@pytest.mark.parametrize("bits", [8, 32])
def test_a_file_as_a_server_writes_it(tmp_path: Path, bits: int) -> None:
    path = written(tmp_path, bits)
    got = open_subject(str(path))
    assert (got.spec, got.bits, got.integer) == (SMALL, bits, False)
    assert got.file_bytes == path.stat().st_size
    assert np.array_equal(got.values["hidden.weight"], load_file(path)["hidden.weight"])


def test_an_int8_file(tmp_path: Path) -> None:
    written(tmp_path, 8)
    got = open_subject(str(tmp_path / "model.int8.safetensors"))
    assert (got.spec, got.bits, got.integer) == (SMALL, 8, True)
    assert got.values["hidden.weight"].dtype == np.int8


def test_a_deep_compressed_file(tmp_path: Path) -> None:
    params = initial_params(build(SMALL), 3)
    tensors = {
        name: Shared(
            np.ones(value.shape, np.bool_),
            np.array([-0.5, 0.5], np.float32),
            (value.ravel() > 0).astype(np.uint8),
        )
        for name, value in params.items()
    }
    tensors["hidden.weight"].mask[:40] = False
    live = int(tensors["hidden.weight"].mask.sum())
    kept = tensors["hidden.weight"]
    tensors["hidden.weight"] = Shared(kept.mask, kept.codebook, kept.indices[:live])
    path = tmp_path / "model.fedlite"
    size = stored.save(path, stored.Stored(SMALL.to_json(), tensors))
    got = open_subject(str(path))
    assert (got.spec, got.bits, got.file_bytes) == (SMALL, 32, size)
    assert np.count_nonzero(got.values["hidden.weight"]) == live
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(SettingsError, match="damaged"):
        open_subject(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nope", ("nope", "mobilenet_v2")),
        ("cnn:wide=2", ("wide=2", "input_shape")),
        ("cnn:num_classes", ("num_classes",)),
        ("cnn:num_classes=ten", ("ten",)),
        ("cnn:num_classes=0", ("num_classes",)),
        ("cnn:input_shape=1x2y", ("1x2y",)),
        ("mobilenet_v2:width=nan", ("width",)),
        ("nowhere/model.safetensors", ("nowhere",)),
        ("", ("no model",)),
    ],
)
def test_what_is_no_model(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as caught:
        open_subject(text)
    for word in words:
        assert word in str(caught.value)


def test_files_that_were_cut_or_altered(tmp_path: Path) -> None:
    path = written(tmp_path, 32)
    good, params = path.read_bytes(), load_file(path)
    made = json.dumps({"bits": 32, "model": json.loads(SMALL.to_json())})
    for length in (0, 4, 100, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(SettingsError, match="cannot read"):
            open_subject(str(path))
    for metadata in ({}, {"fedlite": "{}"}, {"fedlite": made.replace("32", "16")}, {"other": made}):
        save_file(params, path, metadata=metadata)
        with pytest.raises(SettingsError):
            open_subject(str(path))
    other = params["output.bias"]
    for bias in (np.zeros(11, np.float32), other.astype(np.float16), np.full_like(other, np.nan)):
        save_file(params | {"output.bias": bias}, path, metadata={"fedlite": made})
        with pytest.raises(SettingsError, match=r"output\.bias"):
            open_subject(str(path))
    save_file({"output.bias": other}, path, metadata={"fedlite": made})
    with pytest.raises(SettingsError, match="tensors"):
        open_subject(str(path))


def test_examples_are_of_the_shape_the_network_takes() -> None:
    assert example_of(resolve("cnn", {})).batch(3).shape == (3, 1, 28, 28)
    symbols = example_of(resolve("char_lstm", {"num_classes": 30}), (12,))
    batch = symbols.batch(50)
    assert batch.shape == (50, 12)
    assert batch.dtype == np.int64
    assert batch.min() >= 0
    assert batch.max() < 30
    with pytest.raises(SettingsError, match="28x28"):
        example_of(resolve("cnn", {}), (28, 28))


@pytest.mark.parametrize("text", ["", "3x", "0x3", "3x-1", "axb", "3 x 3", "²x2", "9999999"])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(SettingsError, match="no shape"):
        parse_shape(text)
