"""Which files each part of a set is made of. The list is written when a preparation begins and belongs to it.

A part keeps its number and its files for good. Files that are taken in later become new parts behind all others, so a
set that is extended keeps every shard that it has, in the same order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from trainer.config.data import DataConfig, SourceConfig
from trainer.contract.errors import UserError
from trainer.contract.run_dir import write_atomically
from trainer.data.prepare.parts import PARTS, Part, in_order, part_name
from trainer.data.source.inputs import InputChanges, InputFile, compare
from trainer.data.source.sources import cut_into_parts
from trainer.data.store.manifest import FILE as MANIFEST
from trainer.data.store.manifest import Manifest

FILE = "inputs.json"


class InputList(BaseModel):
    """The files of each part, tag by tag, as they were at the start and at each extension."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generations: tuple[dict[str, list[list[InputFile]]], ...]

    @classmethod
    def read(cls, root: Path) -> InputList | None:
        """Return the list of the set in a directory; None where it was begun without one, or not at all."""
        path = root / PARTS / FILE
        return cls.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None

    @classmethod
    def begun(cls, config: DataConfig, found: Mapping[str, Sequence[InputFile]]) -> InputList:
        """Return the list of a preparation that begins with the files that were found for each tag."""
        return cls(generations=({source.tag: cut_into_parts(source, found[source.tag]) for source in _all(config)},))

    def write(self, root: Path) -> None:
        """Write the list into the directory of its set, in one step."""
        write_atomically(root / PARTS / FILE, self.model_dump_json(indent=1) + "\n")

    def parts_of(self, tag: str) -> list[list[InputFile]]:
        """Return the files of each part of a source, in the order of the parts' numbers."""
        return [files for generation in self.generations for files in generation.get(tag, [])]

    def parts(self, config: DataConfig) -> list[Part]:
        """Return all parts of all sources in their final order: those of an extension are behind all others."""
        return [part for parts in self._generation_parts(config) for part in in_order(parts)]

    def changes(self, found: Mapping[str, Sequence[InputFile]]) -> dict[str, InputChanges]:
        """Return how the files that were found for each tag differ from the list; tags without a change are absent."""
        found_changes = {tag: compare(chain.from_iterable(self.parts_of(tag)), files) for tag, files in found.items()}
        return {tag: changes for tag, changes in found_changes.items() if changes}

    def extended(self, config: DataConfig, changes: Mapping[str, InputChanges], done: Collection[str]) -> InputList:
        """Return the list with the files that were added as new parts, and with what changed in parts not yet `done`.

        `done` has the names of the parts that are finished. Raises UserError where a file of one of these was changed
        or removed, and for sources that cannot grow.
        """
        generations, new = [dict(generation) for generation in self.generations], {}
        for source in _all(config):
            if change := changes.get(source.tag):
                _refuse_to_extend(config, source, change)
                number = 0
                for generation in generations:
                    parts = generation.get(source.tag, [])
                    names = [part_name(source.tag, number + k) for k in range(len(parts))]
                    number += len(parts)
                    generation[source.tag] = [
                        _altered(files, change, source.tag, done=name in done)
                        for files, name in zip(parts, names, strict=True)
                    ]
                if change.added:
                    new[source.tag] = cut_into_parts(source, change.added)
        return InputList(generations=(*generations, new) if new else tuple(generations))

    def _generation_parts(self, config: DataConfig) -> list[list[Part]]:
        before = dict.fromkeys((source.tag for source in _all(config)), 0)
        result = []
        for generation in self.generations:
            parts = []
            for held_out_set, group in ((False, config.sources), (True, config.held_out_sets)):
                for number, source in enumerate(group):
                    count, first = len(generation.get(source.tag, [])), before[source.tag]
                    parts += [Part(number, source.tag, first + k, k / count, held_out_set) for k in range(count)]
                    before[source.tag] += count
            result.append(parts)
        return result


def settle_inputs(
    config: DataConfig, root: Path, found: Mapping[str, Sequence[InputFile]], *, extend: bool
) -> InputList:
    """Return the files of each part, which the first process to come here writes down; the set's lock must be held.

    `found` are the files that each source has now. While no part is finished, they are what is written down. `extend`
    takes in what was added, and what was changed before it was read. Raises UserError, naming what was added, removed
    and changed, where the files are not those that the preparation began with.
    """
    inputs = InputList.read(root)
    done = {part.name for part in inputs.parts(config) if part.record(root).exists()} if inputs else set()
    if inputs is None or not done:
        inputs = InputList.begun(config, found)
        inputs.write(root)
        return inputs
    changes = inputs.changes(found)
    if not changes:
        return inputs
    if not extend:
        raise UserError(
            f"{config.name}: the files are not those that its preparation in {root} began with ({describe(changes)}). "
            f"Put them back as they were; take in what was added, and what was changed before it was read, with "
            f"--extend; or prepare a set of another data.name"
        )
    inputs = inputs.extended(config, changes, done)
    if (root / MANIFEST).exists():  # first, or a set could seem complete that lacks the new parts
        Manifest.open(root).model_copy(update={"complete": False}).save(root)
    inputs.write(root)
    return inputs


def refuse_other_files(root: Path, part: Part, read: Sequence[InputFile]) -> None:
    """Raise UserError where a part has other files by now than were read; the set's lock must be held."""
    inputs = InputList.read(root)
    parts = inputs.parts_of(part.tag) if inputs else []
    if part.index >= len(parts) or parts[part.index] != list(read):
        raise UserError(
            f"the files of source {part.tag!r} were changed, and another call has noted the new ones since this one "
            f"began; what was finished is kept, run the same command again"
        )


def _all(config: DataConfig) -> tuple[SourceConfig, ...]:
    return (*config.sources, *config.held_out_sets)


def _altered(files: list[InputFile], change: InputChanges, tag: str, *, done: bool) -> list[InputFile]:
    """Return the files of a part as they are now. Raises UserError where they were read already."""
    now = {then.name: after for then, after in change.changed}
    removed = {file.name for file in change.removed}
    if done and any(file.name in now or file.name in removed for file in files):
        raise UserError(
            f"source {tag!r} cannot be extended, because files of it were changed that were read already ({change}): "
            f"put those back as they were, or prepare a set of another data.name"
        )
    return [now.get(file.name, file) for file in files if file.name not in removed]


def _refuse_to_extend(config: DataConfig, source: SourceConfig, changes: InputChanges) -> None:
    if source in config.held_out_sets:
        raise UserError(
            f"the held-out set {source.tag!r} cannot be extended ({changes}): the training documents were compared "
            f"with what it had; prepare a set of another data.name"
        )
    if source.max_bytes and changes.added:
        raise UserError(
            f"source {source.tag!r} cannot be extended ({changes}): its max_bytes is shared out to the parts that it "
            f"has; prepare a set of another data.name"
        )


def describe(changes: Mapping[str, InputChanges]) -> str:
    """Return what changed in which source, for a message."""
    return "; ".join(f"{tag}: {change}" for tag, change in changes.items())
