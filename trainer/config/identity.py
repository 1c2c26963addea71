"""Which fields of the schema determine what comes out, and which only say how it is come by.

Every field that holds a value says so in its type: `Tokens[int]` determines the tokens of a prepared set, and with
them the result; `Result[int]` determines what a run computes or reports; `Execution[int]` does neither. A field that
holds sections leaves it to their fields, or says it for all of them. `tests/unit/test_identity.py` refuses a field
that says nothing.
"""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum
from typing import Annotated, Any, Protocol, TypeVar, get_args, runtime_checkable

from pydantic import BaseModel
from pydantic.fields import FieldInfo

T = TypeVar("T")


class Determines(IntEnum):
    """What a field determines. The higher holds for all that is lower."""

    NOTHING = 0
    RESULT = 1
    TOKENS = 2


Execution = Annotated[T, Determines.NOTHING]
Result = Annotated[T, Determines.RESULT]
Tokens = Annotated[T, Determines.TOKENS]


@runtime_checkable
class Chosen(Protocol):
    """One of several kinds, with the options of that kind (`trainer/config/choice.py`)."""

    name: str
    options: BaseModel


def said(field: FieldInfo) -> Determines | None:
    """Return what a field says that it determines; None where it says nothing."""
    return next((mark for mark in field.metadata if isinstance(mark, Determines)), None)


def holds_sections(annotation: object) -> bool:
    """Return whether a field's type is a section, or a list or an option of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(holds_sections(part) for part in get_args(annotation))


def determining(section: BaseModel, least: Determines) -> dict[str, Any]:
    """Return the values of the fields that determine at least `least`, as plain JSON values.

    A field that says nothing, as one of a family from elsewhere may, counts as determining: two runs are never taken
    for one by omission.
    """
    dumped = section.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        mark = said(field)
        if name not in dumped or (mark is not None and mark < least):
            continue
        value = getattr(section, name)
        if value is None or isinstance(value, str | int | float):  # most are, and what comes below is slow
            found[name] = dumped[name]
        elif isinstance(value, BaseModel):
            if inner := determining(value, least):
                found[name] = inner
        elif isinstance(value, tuple) and holds_sections(field.annotation):
            found[name] = [determining(entry, least) for entry in value]
        elif isinstance(value, Chosen):
            found[name] = _determining_choice(value, least)
        elif isinstance(value, tuple) and any(isinstance(entry, Chosen) for entry in value):
            found[name] = [_determining_choice(entry, least) for entry in value]
        else:
            found[name] = dumped[name]
    return found


def _determining_choice(choice: Chosen, least: Determines) -> dict[str, Any]:
    return {choice.name: determining(choice.options, least)}


def hash_of(values: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for plain JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
