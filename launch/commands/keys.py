"""`escala keys`: every key of a configuration file, read from the schema itself, so that it cannot be out of date."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import click

from launch.commands.options import json_option
from trainer.contract.errors import UserError, did_you_mean

FILES = {
    "run": "trainer.config.run:RunConfig",
    "sweep": "launch.sweep.cells.config:SweepConfig",
    "cluster": "launch.cluster.config:ClusterConfig",
}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
TYPES = {"boolean": ("true", "false"), "object": ("mapping",), "null": ()}


@click.command()
@click.argument("key", required=False, default="")
@click.option("--of", "file", type=click.Choice(list(FILES)), default="run", show_default=True, help="Kind of file.")
@json_option
def keys(key: str, file: str, as_json: bool) -> None:
    """Print what a configuration file can say: each key, the values that it takes, its default, its meaning.

    KEY is one key, or a section. Without it, all are printed.

    \b
    Examples:
      escala keys
      escala keys parallel
      escala keys optim.lr
      escala keys --of cluster
      escala keys --json | jq -r '.[] | select(.required) | .key'
    """
    rows = describe(file)
    wanted = [row for row in rows if not key or f"{row['key']}.".startswith(f"{key}.")]
    if not wanted:
        raise UserError(f"a {file} file has no key {key!r}{did_you_mean(key, [row['key'] for row in rows])}")
    if as_json:
        click.echo(json.dumps(wanted, indent=2))
    else:
        _print(wanted)


def describe(file: str) -> list[dict[str, Any]]:
    """Return a row for each key of a kind of file: key, values, required, default, meaning."""
    module, _, name = FILES[file].partition(":")
    schema = _schema(getattr(importlib.import_module(module), name))
    rows = list(_rows(schema, schema.get("$defs", {}), ""))
    added = {"run": _with_families, "cluster": _with_backends}.get(file)
    return rows if added is None else added(rows)


def _schema(section: Any) -> dict[str, Any]:
    found: dict[str, Any] = section.model_json_schema(mode="serialization")
    return found


def _with_families(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the keys that only some families of models have behind those that all have."""
    from trainer.config.model import config_class
    from trainer.models.mixers.registry import MIXERS
    from trainer.models.registry import FAMILIES

    common = {row["key"] for row in rows}
    schemas = [(name, _schema(config_class(name))) for name in FAMILIES]
    own = [(name, row) for name, schema in schemas for row in _rows(schema, schema.get("$defs", {}), "model.")]
    added = [{**row, "meaning": f"{name}: {row['meaning']}"} for name, row in own if row["key"] not in common]
    for name, mixer in MIXERS.items():
        options = _rows(_schema(mixer.cost_class.Options), {}, f"model.mixer.{name}.")
        added += [{**row, "meaning": f"the mixer {name}: {row['meaning']}"} for row in options]
    last = max(place for place, row in enumerate(rows) if row["key"].startswith("model.")) + 1
    return [*rows[:last], *added, *rows[last:]]


def _with_backends(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the options of every backend in the place of `options`, and the names of all backends where one is named."""
    from launch.cluster.backends import backend_names, find_backend

    kinds = [find_backend(name) for name in backend_names()]
    names = {"backend": " | ".join(kind.name for kind in kinds)}
    common = [{**row, "values": names.get(row["key"], row["values"])} for row in rows if row["key"] != "options"]
    schemas = [(kind.name, _schema(kind.options)) for kind in kinds]
    own = [(name, row) for name, schema in schemas for row in _rows(schema, schema.get("$defs", {}), "options.")]
    return [*common, *({**row, "meaning": f"{name}: {row['meaning']}"} for name, row in own)]


def _rows(section: dict[str, Any], known: dict[str, Any], prefix: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a section and of those inside it. Keys of a list's items are written `sources[].path`."""
    for name, field in section.get("properties", {}).items():
        inner = field.get("$ref") or field.get("items", {}).get("$ref")
        if inner is not None:
            many = "[]" if "items" in field else ""
            yield from _rows(known[inner.rsplit("/", 1)[-1]], known, f"{prefix}{name}{many}.")
            continue
        yield {
            "key": prefix + name,
            "values": " | ".join(_values(field)),
            "required": name in section.get("required", ()),
            "default": field.get("default"),
            "meaning": field.get("description", ""),
        }
        for part in field.get("items", {}).get("anyOf", ()):  # a list whose entries may be sections
            if "$ref" in part:
                yield from _rows(known[part["$ref"].rsplit("/", 1)[-1]], known, f"{prefix}{name}[].")
        for part in field.get("anyOf", ()):  # an optional section
            if "$ref" in part:
                yield from _rows(known[part["$ref"].rsplit("/", 1)[-1]], known, f"{prefix}{name}.")


def _values(field: dict[str, Any]) -> list[str]:
    """Return what a field takes, in words: its choices, or its type with its bounds."""
    if "anyOf" in field:
        return [value for part in field["anyOf"] for value in _values(part)]
    if "enum" in field or "const" in field:
        return [str(value) for value in field.get("enum", [field.get("const")])]
    if field.get("type") == "array":
        items = field.get("items") or (field.get("prefixItems") or [{}])[0]
        return [f"list of {' | '.join(_values(items)) or 'anything'}"]
    if "$ref" in field:
        return ["mapping"]
    kind = field.get("format") or field.get("type", "anything")
    bounds = [f"{sign} {field[word]:g}" for word, sign in BOUNDS.items() if word in field]
    return list(TYPES.get(kind, (" ".join([kind, ", ".join(bounds)]).strip(),)))


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from launch.show.console import make_console

    table = Table(box=None, pad_edge=False)
    for column in ("key", "values", "default", "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column == "key")
    for row in rows:
        default = "required" if row["required"] else _plain(row["default"])
        table.add_row(*map(Text, (row["key"], row["values"], default, row["meaning"])))
    make_console().print(table)


def _plain(default: object) -> str:
    if default is None or default in ([], {}):
        return "-"
    return default if isinstance(default, str) else json.dumps(default)
