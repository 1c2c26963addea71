"""Secrets stay out of configurations: those are written into run directories, printed, and sent to trackers.

What a file system needs to let us in is taken from the environment, by the file system itself (AWS_SECRET_ACCESS_KEY,
GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN, ...), or where an option names a variable: `secret: $MINIO_SECRET`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from trainer.contract.errors import UserError

SECRET_WORDS = {
    "secret", "secrets", "key", "token", "password", "passwd", "pwd", "passphrase", "credential", "credentials", "sas",
    "auth", "accesskey", "secretkey", "apikey",
}  # fmt: skip
PLACES = {"path", "file", "filename", "name"}  # where a secret is, not what it is
HARMLESS = {"", "anon", "anonymous", "google_default", "cloud", "browser", "cache"}  # ways to sign in, by name
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})\Z")
_USERINFO = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_IN_TEXT = re.compile(r"""(['"]?)([\w.-]+)\1(\s*[:=]\s*)('[^']*'|"[^"]*"|[^\s,}\])'"]+)""")


def looks_secret(name: str) -> bool:
    """Return whether an option of this name holds a secret: `client_secret`, `accountKey`, `token`, not `key_file`."""
    words = {word.lower() for word in _WORDS.findall(name)}
    return bool(words & SECRET_WORDS) and not words & PLACES


def redact(text: str) -> str:
    """Return a text without the values that stand beside the name of a secret, and without passwords in URLs."""
    text = _USERINFO.sub("://***@", text)
    return _IN_TEXT.sub(lambda m: f"{m[1]}{m[2]}{m[1]}{m[3]}***" if looks_secret(m[2]) else m[0], text)


def refuse_literals(options: Mapping[str, Any], path: str = "") -> None:
    """Raise ValueError, which names the option and not its value, for a secret that is spelt out."""
    for name, value in options.items():
        where = f"{path}{name}"
        if isinstance(value, Mapping):
            refuse_literals(value, f"{where}.")
        elif looks_secret(str(name)) and _is_literal(value):
            raise ValueError(
                f"{where!r} looks like a secret, and configurations are written to disk and sent to trackers: export "
                f"it in your shell and give the variable's name, such as {name}: ${str(name).upper()}"
            )


def _is_literal(value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    return not (isinstance(value, str) and (value in HARMLESS or _VARIABLE.match(value)))


def from_environment(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return file system options with the variables that they name replaced by their values.

    Raises `UserError` for a variable that is not set. Nobody writes the result down.
    """
    return {name: _value(name, value) for name, value in options.items()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return from_environment(value)
    match = _VARIABLE.match(value) if isinstance(value, str) and looks_secret(name) else None
    if match is None:
        return value
    variable = match[1] or match[2]
    if variable not in os.environ:
        raise UserError(f"option {name!r} is taken from ${variable}, which is not set: export it in your shell")
    return os.environ[variable]


def _options(options: dict[str, Any]) -> dict[str, Any]:
    refuse_literals(options)
    return options


def _location(text: str) -> str:
    if _USERINFO.search(text):
        raise ValueError(
            "the address holds a password, and configurations are written to disk and sent to trackers: leave it out "
            "and export it in your shell, as the file system reads it"
        )
    return text


Options = Annotated[dict[str, Any], AfterValidator(_options)]  # of a file system
Location = Annotated[str, AfterValidator(_location)]  # a path or an address
