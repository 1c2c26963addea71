"""The question that a report answers, so that it can be asked again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch.scaling.report.model import Grid, Section


def asked_section(question: Mapping[str, Any]) -> Section:
    """Return command, options with their defaults, table and versions (`launch/commands/question.py`)."""
    table, options = question["table"], question["options"]
    said = [f"{flag} {_text(value)}" for flag, value in options.items() if value not in (None, [], False)]
    versions = ", ".join(f"{name} {version}" for name, version in question["versions"].items() if version)
    rows = [
        ["Command", question["command"]],
        ["All options, defaults included", "; ".join(said) or "none"],
        ["Table", f"{table['path']}, SHA-256 {table['sha256'] or 'none'}, {table['rows_used']} rows used"],
        ["Code", f"revision {question['revision']}" if question.get("revision") else "no checkout"],
        ["Versions", versions],
    ]
    return Section("How to ask this again", [], [], [Grid(["", ""], rows, text=True)])


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
