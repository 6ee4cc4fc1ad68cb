"""A file imports only from lower rows of the table in docs/architecture.md."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def rows() -> dict[str, int]:
    """Unit (fedlite.x, server, …) → row, read from the layout table of docs/architecture.md."""
    table: dict[str, int] = {}
    for row, names in re.findall(
        r"^\| (\d+) \| ([^|]+) \|", (ROOT / "docs/architecture.md").read_text(), re.M
    ):
        for name in re.findall(r"`([\w./]+?)/?`", names):
            table[name.removesuffix(".py").replace("/", ".")] = int(row)
    return table


ROWS = rows()


def unit(module: str) -> str:
    """The longest prefix of a module's name that has a row of its own."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in ROWS:
            return name
    raise AssertionError(f"{module} is not in the layout table of docs/architecture.md")


def sources() -> list[Path]:
    found = [p for top in ("fedlite", "server", "client", "simulations") for p in (ROOT / top).rglob("*.py")]
    return [p for p in found if p != ROOT / "fedlite/__init__.py"]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("fedlite", "server", "client", "simulations")}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    here = unit(module_of(path))
    for name in imports(path):
        there = unit(name)
        assert there == here or ROWS[there] < ROWS[here], f"{here} (row {ROWS[here]}) imports {there}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_flower_is_imported_in_few_places(path: Path) -> None:
    flower = {
        "fedlite/flower.py",
        "fedlite/link",
        "fedlite/virtual",
        "fedlite/apps",
        "server",
        "client",
        "simulations",
    }
    text = path.read_text("utf-8")
    if re.search(r"^\s*(from|import) flwr\b", text, re.M):
        assert any(str(path.relative_to(ROOT)).startswith(place) for place in flower)
    if "flwr.supercore" in text:
        assert path == ROOT / "fedlite/flower.py", "private Flower imports stand in one place"


def test_every_row_exists() -> None:
    missing = [
        n
        for n in ROWS
        if not (ROOT / n.replace(".", "/")).is_dir() and not (ROOT / (n.replace(".", "/") + ".py")).is_file()
    ]
    assert not missing
