"""The one error that is meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

USER_ERROR_EXIT_CODE = 2


class UserError(Exception):
    """Something the user can mend.

    The text says what is wrong, with the numbers, and what to change. Every entry point prints it as one
    line and exits with code 2; nobody sees a traceback.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word, or all known words where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(names)})" if names else ""
