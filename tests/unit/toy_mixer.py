"""The mixer of docs/extending.md, run from the page, as a module that ranks can import."""

from __future__ import annotations

import re

from tests.conftest import ROOT
from trainer.models.mixers.registry import MIXERS, Mixer

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
(EXAMPLE,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "class Ema(" in code]
exec(compile(EXAMPLE, "docs/extending.md: A mixer", "exec"), globals())

TOY = Mixer("ema", cost="tests.unit.toy_mixer:EmaCost", module="tests.unit.toy_mixer:Ema")


def register() -> None:
    """Make the toy known by its name in this process."""
    MIXERS["ema"] = TOY
