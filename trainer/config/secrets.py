"""Secrets stay out of configurations: those are written into run directories, printed, and sent to trackers.

What a file system needs to let us in is taken from the environment, by the file system itself (AWS_SECRET_ACCESS_KEY,
GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN, ...), or where an option names a variable: `secret: $MINIO_SECRET`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl

from pydantic import AfterValidator

from trainer.contract.errors import UserError
from trainer.contract.hiding import has_userinfo, hide, looks_secret

HARMLESS = {"", "anon", "anonymous", "google_default", "cloud", "browser", "cache"}  # ways to sign in, by name
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})\Z")


def refuse_literals(options: Mapping[str, object], path: str = "") -> None:
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


def _is_literal(value: object) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    return not (isinstance(value, str) and (value in HARMLESS or _VARIABLE.match(value)))


def from_environment(options: Mapping[str, object]) -> dict[str, object]:
    """Return file system options with the variables that they name replaced by their values.

    Raises `UserError` for a variable that is not set. Nobody writes the result down.
    """
    return {name: _value(name, value) for name, value in options.items()}


def _value(name: str, value: object) -> Any:
    if isinstance(value, Mapping):
        return from_environment(value)
    match = _VARIABLE.match(value) if isinstance(value, str) and looks_secret(name) else None
    if match is None:
        return value
    variable = match[1] or match[2]
    if variable not in os.environ:
        raise UserError(f"option {name!r} is taken from ${variable}, which is not set: export it in your shell")
    hide(os.environ[variable])
    return os.environ[variable]


def _options(options: dict[str, object]) -> dict[str, object]:
    refuse_literals(options)
    return options


def _location(text: str) -> str:
    if has_userinfo(text):
        raise ValueError(
            "the address holds a password, and configurations are written to disk and sent to trackers: leave it out "
            "and export it in your shell, as the file system reads it"
        )
    if secret := _secret_parameter(text):
        raise ValueError(
            f"the address holds a secret, {secret!r}, and configurations are written to disk and sent to trackers: "
            f"leave it out, export it in your shell, and give the variable's name: storage: {{params: {{{secret}: "
            f"${re.sub(r'[^A-Z0-9]', '_', secret.upper())}}}}}"
        )
    return text


def _secret_parameter(address: str) -> str | None:
    """Return the first parameter of an address that looks like a secret, such as the signature of a signed one."""
    if "://" not in address or "?" not in address:
        return None
    parameters = parse_qsl(address.partition("?")[2], keep_blank_values=True)
    return next((name for name, value in parameters if value and looks_secret(name)), None)


Options = Annotated[dict[str, object], AfterValidator(_options)]  # of a file system
Location = Annotated[str, AfterValidator(_location)]  # a path or an address
