"""The base of every section of a configuration: frozen, typed, and strict about names."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.errors import UserError, did_you_mean


class Section(BaseModel):
    """A part of a configuration. It cannot change after it was read, and it refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


S = TypeVar("S", bound=Section)


def parse_section(section: type[S], values: dict[str, Any], where: str) -> S:
    """Validate `values` as `section`.

    Raises `UserError` with one clause for each problem: the dotted key, what is wrong with the value that was
    given, and for an unknown key the nearest known one.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(_explain(section, e) for e in error.errors())) from None


def _explain(section: type[Section], error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path) or "(top level)"
    if error["type"] == "extra_forbidden":
        known = _fields_at(section, path[:-1])
        return f"unknown key {key!r}{did_you_mean(path[-1], known)}"
    if error["type"] == "missing":
        return f"{key!r} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = error.get("input")
    shown = "" if isinstance(given, dict) else f" (given: {given!r})"
    return f"{key!r}: {message}{shown}" if error["loc"] else f"{message}"


def _fields_at(section: type[Section], path: list[str]) -> list[str]:
    """Return the known keys of the section that `path` leads to."""
    current: Any = section
    for part in path:
        field = current.model_fields.get(part)
        if field is None:
            return []
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = [k for k in kinds if isinstance(k, type) and issubclass(k, Section)]
        if not nested:
            return []
        current = nested[0]
    return list(current.model_fields)
