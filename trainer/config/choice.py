"""One of several kinds with the options of that kind: `NAME`, or `{NAME: {option: value}}`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.config.base import Section, parse_section
from trainer.contract.errors import UserError


class NoOptions(Section):
    """The options of a kind that has none."""


NO_OPTIONS = NoOptions()


@dataclass(frozen=True)
class Choice:
    """A kind by its name, and its options."""

    name: str
    options: Section = NO_OPTIONS

    def __str__(self) -> str:
        changed = self.options.model_dump(exclude_defaults=True)
        return (
            f"{self.name} ({', '.join(f'{key} {value}' for key, value in changed.items())})" if changed else self.name
        )


def parse_choice(value: Any, options_of: Callable[[str], type[Section]]) -> Choice:
    """Return what `NAME` or `{NAME: {option: value}}` stands for.

    `options_of` returns the section of a kind's options and raises `UserError` for a kind that is not known. Raises
    ValueError, as a validator of pydantic does.
    """
    if isinstance(value, Choice):
        return value
    given = {value: {}} if isinstance(value, str) else value
    if not isinstance(given, dict) or len(given) != 1:
        raise ValueError("expected a name, or one name with its options, such as {gated_conv: {kernel: 4}}")
    ((name, options),) = given.items()
    if not isinstance(options, dict | None):
        raise ValueError(f"the options of {name} are a mapping, such as {{{name}: {{option: value}}}}")
    try:
        return Choice(str(name), parse_section(options_of(str(name)), options or {}, str(name)))
    except UserError as error:
        raise ValueError(str(error)) from None


def plain_choice(choice: Choice) -> str | dict[str, Any]:
    """Return what `parse_choice` reads, with all options spelt out."""
    options = choice.options.model_dump(mode="json")
    return {choice.name: options} if options else choice.name
