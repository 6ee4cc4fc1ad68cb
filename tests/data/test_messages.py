"""SMS Spam as tokens: the published counts, hashing by CRC-32, and a small transformer that learns it."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from fedlite import models
from fedlite.data.datasets import load, load_stored
from fedlite.data.messages import sms_spam, tokens_of
from fedlite.errors import DataError
from fedlite.train import TrainSettings, evaluate, local_train


def test_it_is_the_published_set(data_dir: Path) -> None:
    """Almeida et al. 2011: 4,827 ham and 747 spam; a fifth of each is test: 965 and 149."""
    train, test = (load("sms_spam", split, data_dir) for split in ("train", "test"))
    assert np.bincount(train.y).tolist() == [4827 - 965, 747 - 149]
    assert np.bincount(test.y).tolist() == [965, 149]
    assert train.x.shape == (4460, 48)
    assert train.x.dtype == np.int64
    assert 0 <= train.x.min() < train.x.max() < 4096
    assert load_stored("sms_spam", "test", data_dir).x.dtype == np.uint16


def test_tokens_are_crc32_of_words() -> None:
    """CRC-32 of "a" is E8B7BE43, of "abc" 352441C2; of a number only its length is kept, of a word no case."""
    a, abc = 1 + 0xE8B7BE43 % 4095, 1 + 0x352441C2 % 4095
    assert tokens_of("A abc", 4).tolist() == [a, abc, 0, 0]
    assert tokens_of("abc a abc", 2).tolist() == [abc, a]
    assert tokens_of("", 2).tolist() == [0, 0]
    assert tokens_of("0872", 1).tolist() == tokens_of("1234", 1).tolist() != tokens_of("123", 1).tolist()
    assert (tokens_of("call£5!now", 6) != 0).tolist() == [True] * 5 + [False]
    assert tokens_of("a abc", 2, vocabulary=11).tolist() == [1 + 0xE8B7BE43 % 10, 1 + 0x352441C2 % 10]


@pytest.mark.parametrize(
    "text", [b"", b"ham no tab\n", b"eggs\tand spam\n", b"ham\t\xff\n", b"ham\tok\n\n\nspam\t!\n"]
)
def test_another_file_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "sms.gz"
    path.write_bytes(gzip.compress(text))
    with pytest.raises(DataError, match=r"sms\.gz"):
        sms_spam(path, "train")


def test_a_file_that_is_not_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sms.gz"
    path.write_text("ham\tok\n")
    with pytest.raises(DataError, match="not gzipped"):
        sms_spam(path, "train")


def test_a_small_transformer_finds_spam(data_dir: Path) -> None:
    """86.6 % of the messages are ham, so that is what saying nothing gives."""
    train, test = (load("sms_spam", split, data_dir) for split in ("train", "test"))
    model = models.build("text_transformer", width=32, heads=2, length=48)
    settings = TrainSettings(batch_size=32, optimizer="adam", learning_rate=0.005)
    trained = local_train(model, models.params_of(model), train.x, train.y, settings, seed=0).params
    assert evaluate(model, trained, test.x, test.y)["accuracy"] > 0.95
