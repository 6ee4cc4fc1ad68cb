"""One dataclass is the command line, the TOML file and the record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from fedlite.config import option, parse, record
from fedlite.errors import SettingsError


@dataclass(frozen=True)
class Example:
    rounds: int = option(20, "how many rounds")
    rate: float = option(0.5, "how fast, in % of light")
    name: str = option("pi", "what it is called")
    folder: Path | None = option(None, "where", metavar="DIR")
    loud: bool = option(False, "say more")
    kind: Literal["a", "b"] = option("a", "which")
    bits: Literal[8, 32] = option(8, "how many")


def make(*argv: str) -> Example:
    return parse(Example, argv, prog="example", description="An example.")


def test_defaults() -> None:
    assert make() == Example()


def test_flags() -> None:
    got = make("--rounds", "3", "--rate", "0.1", "--folder", "x", "--loud", "--kind", "b", "--bits", "32")
    assert got == Example(3, 0.1, "pi", Path("x"), True, "b", 32)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('rounds = 7\nrate = 1\nfolder = "y"\n')
    assert make("--config", str(file), "--rounds", "9") == Example(9, 1.0, "pi", Path("y"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("round = 3", "unknown key 'round'"),
        ('rounds = "3"', "int wanted"),
        ("rounds = true", "int wanted"),
        ('kind = "c"', "it can be a, b"),
        ("rounds = ", "is not TOML"),
    ],
)
def test_a_bad_file_is_named_with_its_remedy(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=says):
        make("--config", str(file))


@pytest.mark.parametrize(
    "argv", [["--bogus"], ["--rounds", "many"], ["--kind", "c"], ["--config", "/nowhere/x.toml"]]
)
def test_a_bad_command_line_is_a_settings_error(argv: list[str]) -> None:
    with pytest.raises(SettingsError):
        make(*argv)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        make("--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "how many rounds [20]" in text
    assert "in % of light [0.5]" in text


def test_the_record_is_plain_json() -> None:
    assert record(Example(folder=Path("z")))["folder"] == "z"
