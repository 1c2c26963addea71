"""The base of every section of a configuration: frozen, typed, and strict about names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator

from trainer.config.conditional import WRITTEN, Conditional, idle
from trainer.config.merging import are_places, lay_over
from trainer.contract.errors import UserError, did_you_mean
from trainer.contract.hiding import redact


def is_none(value: object) -> bool:
    """Tell whether a value is None: `exclude_if` of settings without which runs keep their identity."""
    return value is None


class Section(BaseModel):
    """A part of a configuration. It cannot change after it was read, and it refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    conditional: ClassVar[tuple[Conditional, ...]] = ()  # settings that do something only beside another

    @classmethod
    def known_keys(cls) -> list[str]:
        """Return the keys that the section may have; one that has kinds adds those of all kinds."""
        return list(cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _entries_of_default_lists(cls, values: object) -> Any:
        """Change entries of a list that has its default, as `sources.0.min_chars=9` does where no file has sources."""
        if not isinstance(values, dict):
            return values
        changed = {}
        for key, value in values.items():
            field = cls.model_fields.get(str(key))
            if field is not None and isinstance(field.default, tuple) and are_places(value):
                plain = [e.model_dump(mode="json") if isinstance(e, Section) else e for e in field.default]
                changed[key] = lay_over(plain, value, str(key))
        return {**values, **changed}

    @model_validator(mode="after")
    def _none_is_idle(self, info: ValidationInfo) -> Self:
        if self.conditional and not (info.context or {}).get(WRITTEN):
            defaults = {name: field.get_default() for name, field in type(self).model_fields.items()}
            if found := idle(self, self.conditional, defaults):
                raise ValueError("; ".join(found))
        return self


S = TypeVar("S", bound=Section)


def parse_section(section: type[S], values: dict[str, Any], where: str, *, written: bool = False) -> S:
    """Validate `values` as `section`. With `written` they are what Escala wrote: nothing in them is refused as idle.

    Raises `UserError` with one clause for each problem: the dotted key, what is wrong with the value that was
    given, and for an unknown key the nearest known one.
    """
    try:
        return section.model_validate(values, context={WRITTEN: written})
    except ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(_clauses(section, error.errors()))) from None


def _clauses(section: type[Section], errors: Sequence[Any]) -> list[str]:
    """Return one clause for each key that is wrong."""
    by_key: dict[str, list[Any]] = {}
    for error in errors:
        at = error["loc"]
        if error["type"] == "too_short" and any(len(o["loc"]) > len(at) and o["loc"][: len(at)] == at for o in errors):
            continue  # a list is short only because an entry of it is wrong, which is said
        by_key.setdefault(_key(section, error["loc"]), []).append(error)
    return [_clause(section, key, of_key) for key, of_key in by_key.items()]


def _clause(section: type[Section], key: str, errors: Sequence[Any]) -> str:
    """Say what is wrong with one key; what each member of a union would have accepted is joined by "or"."""
    if errors[0]["type"] == "extra_forbidden":
        *parents, name = key.split(".")
        return f"unknown key {key!r}{did_you_mean(name, _fields_at(section, parents))}"
    if errors[0]["type"] == "missing":
        return f"{key!r} is missing"
    problems = [str(error["msg"]).removeprefix("Value error, ") for error in errors]
    message = " or ".join(dict.fromkeys(problem[0].lower() + problem[1:] for problem in problems))
    given = errors[0].get("input")
    shown = "" if isinstance(given, dict) else f" (given: {_short(redact(repr(given)))})"
    return f"{key!r}: {message}{shown}" if key else message


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def _key(section: type[Section], location: Sequence[int | str]) -> str:
    """Return the dotted key of a problem, without pydantic's names for the members of a union behind it."""
    path = [str(part) for part in location]
    known = 0
    while known < len(path) and (path[known].isdigit() or _fields_at(section, path[:known])):
        known += 1
    return ".".join(path[:known])


def _fields_at(section: type[Section], path: list[str]) -> list[str]:
    """Return the known keys of the section that `path` leads to."""
    current: Any = section
    for part in path:
        if part.isdigit():  # a place in a list of sections
            continue
        field = current.model_fields.get(part)
        if field is None:
            return []
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = [k for k in kinds if isinstance(k, type) and issubclass(k, Section)]
        if not nested:
            return []
        current = nested[0]
    keys: list[str] = current.known_keys()
    return keys
