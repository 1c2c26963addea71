"""Which families of models a table holds, and which of them the others are compared with."""

from __future__ import annotations

from launch.scaling.table.table import Table

REFERENCES = ("transformer", "attention")  # what others are compared with, where one is among them


def families_of(table: Table) -> tuple[str, ...]:
    """Return the families of a table, the reference first: the transformer, or else the first in the table."""
    names = list(dict.fromkeys(str(name) for name in table.labels.get("group", ())))
    return tuple(sorted(names, key=lambda name: name not in REFERENCES))
