"""Options of a command made from the fields of a section, so that each setting is described once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from launch.commands.options import F
from trainer.config.base import Section


def flag(name: str) -> str:
    """Return the option of a setting."""
    return "--" + name.replace("_", "-")


def settings_options(
    section: type[Section], choices: Mapping[str, list[str]] | None = None, whose: Callable[[str], str] = lambda _: ""
) -> Callable[[F], F]:
    """Return a decorator that adds an option for each field; what is not given is None, False or ().

    `choices` are the values of some fields; `whose` gives a remark at the end of a field's help.
    """

    def add(command: F) -> F:
        for name, field in reversed(section.model_fields.items()):
            values = (choices or {}).get(name)
            command = click.option(flag(name), **_option(field, values), help=_help(field, whose(name)))(command)
        return command

    return add


def _option(field: FieldInfo, choices: list[str] | None) -> dict[str, Any]:
    if choices is not None:
        return {"type": click.Choice(choices)}
    if field.annotation is bool:
        return {"is_flag": True}
    if get_origin(field.annotation) is tuple:
        return {"multiple": True}
    return {"type": next(kind for kind in (*get_args(field.annotation), field.annotation) if kind is not NoneType)}


def _help(field: FieldInfo, remark: str) -> str:
    text = field.description or ""
    default = "" if field.default is None or field.default is False or field.default == () else field.default
    told = "" if default == "" else f" Default: {default}."
    return f"{text[:1].upper()}{text[1:]}.{told}{remark}"
