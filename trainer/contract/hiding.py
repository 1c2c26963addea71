"""Secrets kept out of what is printed and written: by the name beside them, and by their value.

Libraries repeat in their errors what they were given: a key, a signed address. Every entry point passes its messages
and tracebacks through `without_secrets`, and the log of a rank whatever Python prints.
"""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from types import TracebackType

SECRET_WORDS = {
    "secret", "secrets", "key", "token", "password", "passwd", "pwd", "passphrase", "credential", "credentials", "sas",
    "auth", "accesskey", "secretkey", "privatekey", "apikey", "signature", "sig", "jwt",
}  # fmt: skip
PLACES = {"path", "file", "filename", "name", "sock", "dir", "url"}  # where a secret is, not what it is
SHORTEST = 8  # characters of a value of the environment: a shorter one is a word that messages use
HIDDEN = "***"
SHELLS = {"PWD", "OLDPWD"}  # the shell's directories
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_USERINFO = re.compile(r"://[^/@\s]*:[^/@\s]*@|(?<=http)s?://[^/@\s]+@")
_IN_TEXT = re.compile(r"""(['"]?)([\w.-]+)\1(\s*[:=]\s*)('[^']*'|"[^"]*"|[^\s,}\])'"&]+)""")
_PARAMETER = re.compile(r"""([?&]([\w.-]+)=)[^&#\s'"]+""")  # of an address
_taken: set[str] = set()


@cache
def looks_secret(name: str) -> bool:
    """Return whether an option of this name holds a secret: `client_secret`, `accountKey`, `token`, not `key_file`."""
    words = set() if name in SHELLS else {word.lower() for word in _WORDS.findall(name)}
    return bool(words & SECRET_WORDS) and not words & PLACES


def has_userinfo(address: str) -> bool:
    """Return whether an address holds a password, or, for HTTP, any name to sign in with."""
    return _USERINFO.search(address) is not None


def redact(text: str) -> str:
    """Return a text without the values that stand beside the name of a secret, in URLs too, and without passwords."""
    text = _USERINFO.sub(lambda m: f"{m[0].split('://')[0]}://{HIDDEN}@", text)
    text = _PARAMETER.sub(lambda m: f"{m[1]}{HIDDEN}" if looks_secret(m[2]) else m[0], text)
    return _IN_TEXT.sub(lambda m: f"{m[1]}{m[2]}{m[1]}{m[3]}{HIDDEN}" if looks_secret(m[2]) else m[0], text)


def hide(value: str) -> None:
    """Remember a value that was taken from the environment as a secret: `without_secrets` leaves it out."""
    if value:
        _taken.add(value)


def without_secrets(text: str) -> str:
    """Return a text without the values of secrets, as they are and as addresses spell them.

    Those are what `hide` was told, and long values of variables whose names say that they are secrets.
    """
    named = {value for name, value in os.environ.items() if len(value) >= SHORTEST and looks_secret(name)}
    spellings = {spelling for value in _taken | named for spelling in _spellings(value)}
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, HIDDEN)
    return text


def hide_in_tracebacks() -> None:
    """Have errors that nobody expected end this process with a traceback that holds no secret."""
    sys.excepthook = _print_without_secrets


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an error without secrets."""
    import traceback  # late, as `quote` below: commands that go well pay for neither

    return without_secrets("".join(traceback.format_exception(error)))


def _print_without_secrets(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    print(traceback_text(error.with_traceback(where)), end="", file=sys.stderr)


def _spellings(value: str) -> set[str]:
    """Return how a value may stand in a text: as it is, as Python shows it, and in an address."""
    from urllib.parse import quote, quote_plus

    return {value, repr(value)[1:-1], *(way(value, safe=safe) for way in (quote, quote_plus) for safe in ("", "/"))}
