"""How long a job may run: minutes, Slurm's notations, or `12h`. Kept in whole minutes, as schedulers count."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

EXPECTED = "expected minutes, or a time such as 90m, 12h, 1d12h, 12:00:00 or 1-12:00:00"
_CLOCK = re.compile(r"(?:(?P<days>\d+)-(?P<hours>\d+)(?::(?P<minutes>\d+)(?::(?P<seconds>\d+))?)?)\Z")  # sbatch(1)
_HMS = re.compile(r"(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)\Z")
_WORDS = re.compile(
    r"(?:(?P<days>\d+)\s*d(?:ays?)?)?\s*(?:(?P<hours>\d+)\s*h(?:ours?)?)?\s*"
    r"(?:(?P<minutes>\d+)\s*m(?:in|inutes?)?)?\s*(?:(?P<seconds>\d+)\s*s(?:ec|econds?)?)?\Z"
)
_SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def parse_minutes(value: object) -> int:
    """Return whole minutes, rounded up as Slurm does. Raises ValueError."""
    text = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(EXPECTED)
    if text.isdecimal():
        minutes = int(text)
    elif re.fullmatch(r"\d+:\d+", text):
        one, two = text.split(":")
        raise ValueError(f"{text} is {one} minutes and {two} seconds to Slurm: write {one}h{two}m or 00:{text}")
    else:
        found = _CLOCK.match(text) or _HMS.match(text) or _WORDS.match(text)
        if found is None or not text:
            raise ValueError(EXPECTED)
        seconds = sum(int(number) * _SECONDS[unit] for unit, number in found.groupdict().items() if number)
        minutes = -(-seconds // 60)
    if minutes < 1:
        raise ValueError("a limit of 0 is none to Slurm: leave it out, or give at least a minute")
    return minutes


TimeLimit = Annotated[
    int,
    BeforeValidator(parse_minutes),
    WithJsonSchema({"type": "string", "format": "minutes, 12h or D-HH:MM:SS"}),
]
