"""The walls of the house: who may import whom. One list holds them; what breaks one is named with its file."""

from __future__ import annotations

import ast
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = sorted([*(ROOT / "trainer").rglob("*.py"), *(ROOT / "launch").rglob("*.py")])


@cache
def imports_of(file: Path) -> frozenset[str]:
    """Return the modules that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def importers(package: str) -> list[str]:
    """Return the files that import a package, relative to the root."""
    return [
        str(file.relative_to(ROOT))
        for file in FILES
        if any(name == package or name.startswith(package + ".") for name in imports_of(file))
    ]


# package -> the folders that may import it
ALONE = {
    "deepspeed": ("trainer/engine/deepspeed/",),
}


@pytest.mark.parametrize(("package", "folders"), ALONE.items())
def test_one_folder_imports(package: str, folders: tuple[str, ...]) -> None:
    assert [file for file in importers(package) if not file.startswith(folders)] == []
    assert importers(package), f"nothing imports {package}: the rule is out of date"


def test_the_internals_of_deepspeed_were_read_in_the_installed_version() -> None:
    from trainer.engine.deepspeed.internals import READ_IN

    installed = version("deepspeed")
    assert installed == READ_IN, (
        f"trainer/engine/deepspeed/internals.py relies on what DeepSpeed {READ_IN} does inside, and {installed} is "
        "installed: read each function there against the new source, run tests/dist, and raise READ_IN"
    )
