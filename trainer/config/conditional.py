"""Settings that do something only beside another: given without it they would be lost silently, so they are refused.

A section declares its own as `conditional`; `trainer/config/base.py` checks every section in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ANY: tuple[object, ...] = ()  # of a deciding setting: whatever it is set to
WRITTEN = "written"  # key of the validation context: what Escala wrote was accepted once, and is read as it is


@dataclass(frozen=True)
class Conditional:
    """`names` have an effect where one of the settings in `beside` has one of its values; `ANY`: where it is set."""

    names: tuple[str, ...]
    beside: Mapping[str, tuple[object, ...]]

    def applies(self, section: Any) -> bool:
        """Tell whether the settings have an effect in a section."""
        return any(
            getattr(section, name) in values if values else getattr(section, name) not in (None, False)
            for name, values in self.beside.items()
        )

    def refusal(self, section: Any, given: Iterable[str]) -> str:
        """Say which of the given settings have no effect, why, and what to write."""
        names = list(given)
        because, ways = [], []
        for name, values in self.beside.items():
            because.append(f"with {name} {getattr(section, name)}" if values else f"without {name}")
            ways.append(f"set {name} to {' or '.join(map(str, values))}" if values else f"set {name}")
        has, them = ("has", "it") if len(names) == 1 else ("have", "them")
        return (
            f"{' and '.join(names)} {has} no effect {' and '.join(because)}: leave {them} out, or {', or '.join(ways)}"
        )


def idle(section: Any, rules: Iterable[Conditional], defaults: Mapping[str, object]) -> list[str]:
    """Return a sentence for each rule whose settings differ from their defaults and have no effect."""
    found = []
    for rule in rules:
        given = [name for name in rule.names if getattr(section, name) != defaults[name]]
        if given and not rule.applies(section):
            found.append(rule.refusal(section, given))
    return found
