"""Names that become directories: of runs, sweeps, token sets. One check, so that none ever leaves its parent."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

LONGEST = 150  # bytes: file systems take 255, and launchers add to it


def check_name(name: str) -> str:
    """Return a name that is one plain directory below its parent. Raises ValueError that says what is wrong with it."""
    if not name.strip():
        raise ValueError("a name cannot be empty")
    if not name.isprintable():
        raise ValueError("a name cannot hold control characters, such as line ends, tabs or marks of direction")
    if bad := [mark for mark in "/\\" if mark in name]:
        raise ValueError(f"a name is also a directory's: it cannot contain {bad[0]!r}")
    if name[0] in ".-":
        raise ValueError(f"a name is also a directory's: it cannot begin with {name[0]!r}")
    if (size := len(name.encode("utf-8", "surrogatepass"))) > LONGEST:
        raise ValueError(f"a name has at most {LONGEST} bytes, and this one has {size}")
    return name


Name = Annotated[str, AfterValidator(check_name)]
