"""The examples of docs/extending.md run as they stand, one after the other."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest

from tests.conftest import ROOT
from trainer.config.decoding import DECODERS

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^## ([^\n]+)\n|```python\n(.*?)```", PAGE, flags=re.MULTILINE | re.DOTALL)
NAMED = [
    (next(title for title, _ in reversed(EXAMPLES[:place]) if title), code)
    for place, (_, code) in enumerate(EXAMPLES)
    if code
]


# What their examples define is used in toy_mixer.py and tests/e2e/test_added_backend.py.
USED_ELSEWHERE = {"A mixer", "A backend"}


def test_every_example_says_what_comes_out() -> None:
    assert len(NAMED) >= 4
    assert {title for title, code in NAMED if not re.search(r"^assert ", code, re.MULTILINE)} == USED_ELSEWHERE


@pytest.mark.parametrize(("title", "code"), NAMED, ids=[title for title, _ in NAMED])
def test_the_example_runs(title: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a module of its own, which can be imported by its name; what it registers is forgotten after it."""
    module = ModuleType("extending_example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(DECODERS, "eta", DECODERS["greedy"])
    exec(compile(code, f"docs/extending.md: {title}", "exec"), vars(module))
