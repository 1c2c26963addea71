"""Whether a complete set is what its sources give now."""

from __future__ import annotations

from pathlib import Path

from trainer.config.data import DataConfig, SourceConfig
from trainer.contract.errors import UserError
from trainer.data.prepare.progress import Progress
from trainer.data.source.input_list import InputList, describe
from trainer.data.source.inputs import EMBEDDED, InputFile
from trainer.data.source.sources import Source

PATIENCE = 10.0  # seconds for a server; the set is complete without it


def is_up_to_date(config: DataConfig, root: Path, *, extend: bool, progress: Progress) -> bool:
    """Return whether a complete set needs nothing; say so, and what could not be compared.

    False means that files were added which `extend` takes in. Raises UserError where files were added or changed and
    `extend` does not ask for them.
    """
    inputs, prepared = InputList.read(root), f"{config.name}: already prepared in {root}"
    if inputs is None:
        if extend:
            raise UserError(f"{root} cannot be extended: it does not say which files it was made of; prepare it anew")
        progress.say(prepared)
        return True
    try:
        found = {source.tag: _glance(source) for source in (*config.sources, *config.held_out_sets)}
    except UserError as error:
        if extend:
            raise
        progress.say(f"{prepared}; its sources cannot be compared with it any more: {error}")
        return True
    changes = inputs.changes(found)
    grown = {tag: change for tag, change in changes.items() if change.added or change.changed}
    if extend and grown:
        return False
    if set(grown) - {source.tag for source in config.sources if source.path == EMBEDDED}:
        raise UserError(
            f"{root} is complete, and its sources have changed since ({describe(changes)}): nothing of that was read. "
            f"Take files that were added in with --extend, or prepare a set of another data.name"
        )
    progress.say(f"{prepared}; its sources have changed since ({describe(changes)})" if changes else prepared)
    return True


def _glance(source: SourceConfig) -> list[InputFile]:
    patience = min(PATIENCE, source.stall_seconds)
    return Source(source.model_copy(update={"retries": 0, "stall_seconds": patience})).files
