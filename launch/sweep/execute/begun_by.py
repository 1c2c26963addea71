"""How a sweep was begun: the words of a command line, kept in its directory for the commands that go on with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.contract.plain_json import DamagedFileError, read_object

RECORD, BEGUN = "sweep.json", "begun_by"  # in the sweep's directory: what was run


@dataclass(frozen=True)
class BegunBy:
    """The words that mean a sweep, wherever they are typed."""

    config: str  # an absolute path, or the name of a sweep that comes with the package
    assignments: tuple[str, ...] = ()


def begun_by(directory: Path) -> BegunBy | None:
    """Return how the sweep of a directory was begun last; None where it does not say."""
    try:
        row = read_object(directory / RECORD, BEGUN)[BEGUN]
        return BegunBy(str(row["config"]), tuple(map(str, row["assignments"])))
    except (FileNotFoundError, DamagedFileError, KeyError, TypeError):
        return None
