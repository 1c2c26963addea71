"""What a user wrote, made safe for scripts, file names and schedulers. No shell ever sees it unquoted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from launch.cluster.job import JobSpec
from trainer.contract.errors import UserError
from trainer.contract.hiding import looks_secret

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_WORD = re.compile(r"[A-Za-z0-9_.,:;=@%+/*~\[\]()|&!-]+\Z")


def sh(value: object) -> str:
    """Quote one word for a POSIX shell."""
    return shlex.quote(str(value))


def label(name: str, longest: int = 60) -> str:
    """Return a name that schedulers can show: letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:longest] or "job"


def dns_label(name: str, longest: int = 40) -> str:
    """Return the name as an RFC 1123 label, which Kubernetes demands: lower-case letters, digits, `-`."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:longest].rstrip("-")
    return text if text[:1].isalpha() else f"job-{text}".rstrip("-")


def directive(option: str, value: object) -> str:
    """Return the value of a scheduler's directive, refused unless it is one plain word."""
    text = str(value)
    if not _WORD.match(text):
        raise UserError(
            f"{option}: {text!r} has characters that no scheduler option needs; use letters, digits and -_.,:=/"
        )
    return text


def quoted_directive(option: str, value: object) -> str:
    """Return any line of text as the value of an `#SBATCH` line, in the quotes that sbatch itself reads."""
    text = str(value)
    if not text or not text.isprintable():
        raise UserError(f"{option}: {text!r} must be one line of printable text")
    return text if _WORD.match(text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_plain_path(path: Path) -> bool:
    """Tell whether a path may stand in a directive: no blanks, no quotes, no pattern characters."""
    return re.fullmatch(r"[A-Za-z0-9_./+-]+", str(path)) is not None


def check_spec(spec: JobSpec) -> None:
    """Refuse what no script can carry. Raises UserError that names the value and the way out."""
    check_environment(spec.environment, f"job {spec.name!r}")
    texts = [*spec.environment.values(), str(spec.directory or "")]
    for task in spec.tasks:
        texts += [task.name, str(task.run_dir), *task.command]
    bad = next((text for text in texts if "\0" in text), None)
    if bad is not None:
        raise UserError(f"job {spec.name!r}: {bad!r} contains a NUL character, which no command line can carry")


def check_environment(environment: Mapping[str, str], where: str) -> None:
    """Refuse names that are no variables, and names that look like secrets."""
    for name in environment:
        if not _VARIABLE.match(name):
            raise UserError(f"{where}: {name!r} is not the name of an environment variable")
        if looks_secret(name):
            raise UserError(
                f"{where}: {name} looks like a secret and would be written into a file; "
                f"list its name under `secrets` and export it in your shell instead"
            )
