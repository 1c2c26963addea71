"""The one error that is meant for the person at the keyboard."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from trainer.contract.exit_codes import EXIT_USER_ERROR

MOST_KNOWN = 24  # words that an error lists


class UserError(Exception):
    """Something the user can mend.

    The text says what is wrong, with the numbers, and what to change. Every entry point prints it as one
    line and exits with `exit_code`; nobody sees a traceback.
    """

    exit_code = EXIT_USER_ERROR


class EndedBadlyError(UserError):
    """Something that was started ended badly. The exit code is that of what ended, see `exit_codes.py`."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


REMEDIES = {
    errno.ENOSPC: "make room there, or name a directory on another disk",
    errno.EDQUOT: "your quota there is used up: remove something, or name another directory",
    errno.EROFS: "name a directory that can be written",
    errno.EACCES: "you have no right to do that: name another place, or ask for the right",
    errno.EPERM: "you have no right to do that: name another place, or ask for the right",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ESTALE: "the network file system lost it: try again",
    errno.EIO: "the disk or the network file system fails",
}


def os_error_text(error: OSError) -> str:
    """Say what the system refused: the file, the system's reason, and what helps where that is known."""
    reason = error.strerror or str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    remedy = REMEDIES.get(error.errno or 0)
    return (
        ": ".join([*names[:1], reason]) + (f" (to {names[1]})" if names[1:] else "") + (f"; {remedy}" if remedy else "")
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word; where none is near, the first known words."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f" (did you mean {near[0]!r}?)"
    more = f" and {len(names) - MOST_KNOWN} more" if len(names) > MOST_KNOWN else ""
    return f" (known: {', '.join(names[:MOST_KNOWN])}{more})" if names else ""
