"""The question that a command was asked, whole, so that its answer can be had again."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from launch.scaling.table.table import Table
from trainer.contract.provenance import git_revision

VERSIONS = ("escala", "numpy", "scipy", "matplotlib")


def question(table: Table) -> dict[str, Any]:
    """Return the running command as it can be typed again, all its options, what it read, and the versions.

    The options include defaults: seed, replicates, delta. What was written where is no part of the question.
    """
    context = click.get_current_context()
    options = {
        p.opts[0]: _plain(context.params[p.name])
        for p in context.command.params
        if isinstance(p, click.Option) and p.name in context.params and p.name not in ("as_json", "out")
    }
    return {
        "command": _command(context),
        "options": options,
        "table": {"path": table.source, "sha256": table.sha256, "rows_used": len(table)},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in VERSIONS}},
        "revision": git_revision(),
    }


def _command(context: click.Context) -> str:
    words = ["escala", context.command.name or ""]
    for p in context.command.params:
        value = context.params.get(p.name or "")
        if isinstance(p, click.Argument):
            words.append(str(value))
        elif context.get_parameter_source(p.name or "") is ParameterSource.COMMANDLINE and isinstance(p, click.Option):
            flag = max(p.opts, key=len)
            for each in value if isinstance(value, tuple) else [value]:
                words += [flag] if p.is_flag else [flag, str(each)]
    return shlex.join(words)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
