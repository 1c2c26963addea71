"""Datasets of the Hugging Face hub: which files they have, and their rows where only `datasets` can read the format."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.config.data import SourceConfig
from trainer.contract.errors import UserError
from trainer.data.source.inputs import InputFile, look

QUICK_RETRIES = 3
NOT_ON_THE_HUB = ("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError")
SAMPLED_BY = {"line": "lines", "paragraph": "paragraphs", "document": "files"}


@dataclass(frozen=True)
class HubDataset:
    """A dataset that was found. `kind` is json, parquet, text, or other for what only `datasets` reads."""

    builder: Any
    config: SourceConfig
    kind: str
    files: list[InputFile]

    @property
    def documents_are(self) -> str:
        """What one document is in files of text: the dataset says it, by default a line."""
        return SAMPLED_BY[self.builder.config.sample_by] if self.kind == "text" else self.config.documents_are

    def rows(self, files: Sequence[InputFile]) -> Iterator[str | None]:
        """Yield the text of the rows of some of the files, read by `datasets`. Raises UserError for other values."""
        column, builder = self.config.column, copy.copy(self.builder)
        builder.config = copy.copy(builder.config)
        builder.config.data_files = _data_files(self.config.split, [file.name for file in files])
        if hasattr(builder.config, "usecols"):  # CSV: its types are guessed anew for each chunk
            builder.info = type(builder.info)()
            builder.config.dtype, builder.config.keep_default_na = {column: "str"}, False
        named = f"source {self.config.tag!r} ({self.config.path})"
        for number, row in enumerate(builder.as_streaming_dataset(self.config.split), 1):
            if column not in row:
                raise UserError(f"{named} has no column {column!r}; it has {', '.join(map(repr, row))}")
            text = row[column]
            if text is not None and not isinstance(text, str):
                raise UserError(f"{named}: row {number}: column {column!r} holds {type(text).__name__}, not text")
            yield text


def find_dataset(config: SourceConfig) -> HubDataset:
    """Look a dataset up on the hub. Raises UserError where it is not there, and whatever `datasets` raises."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(
            f"source {config.tag!r} is a dataset of the hub, which the package `datasets` reads, and that is not "
            "installed here: install it, or name files (jsonl, parquet, text)"
        ) from None

    datasets.disable_progress_bars()
    _retry_in_our_way(datasets.config)
    named = f"source {config.tag!r} ({config.path})"
    try:
        builder = datasets.load_dataset_builder(
            config.path, config.subset, storage_options=config.storage_options or None
        )
    except ImportError as error:
        raise UserError(f"{named} needs a package that is not installed: {error}") from None
    except Exception as error:
        if type(error).__name__ in NOT_ON_THE_HUB:
            raise UserError(
                f"{named} is not on the hub, or not for everybody: check the name, and log in (hf auth login, "
                f"or HF_TOKEN in the environment) where it is private or gated"
            ) from None
        raise
    return HubDataset(builder, config, _kind(builder), _files(builder, config, named))


def _retry_in_our_way(settings: Any) -> None:
    """Let `datasets` try again a few times where it stopped, at varying moments; pauses that grow are ours.

    Its own are the same each time and for everybody, and take minutes in silence.
    """
    for action in ("READ", "OPEN"):
        setattr(settings, f"STREAMING_{action}_MAX_RETRIES", QUICK_RETRIES)
    for pause in ("READ_RETRY", "READ_SERVER_UNAVAILABLE_RETRY", "READ_RATE_LIMIT_RETRY", "OPEN_RETRY"):
        setattr(settings, f"STREAMING_{pause}_INTERVAL", random.uniform(0.5, 1.5))  # noqa: S311


def _kind(builder: Any) -> str:
    names = {base.__module__.split(".")[-1] for base in type(builder).__mro__}
    if "json" in names and builder.config.field is None:
        return "json"
    return next((kind for kind in ("parquet", "text") if kind in names), "other")


def _files(builder: Any, config: SourceConfig, named: str) -> list[InputFile]:
    """Return the files of the configured split, such as `train` or `train+test`, as they are at the found commit."""
    found = builder.config.data_files or {}
    names: list[str] = []
    for split in config.split.split("+"):
        if split not in found:
            raise UserError(f"{named}: Bad split: {split}. Available splits: {[str(name) for name in found]}")
        names += [str(name) for name in found[split]]
    return [look(name, config) for name in names]


def _data_files(split: str, names: list[str]) -> Any:
    from datasets.data_files import DataFilesDict, DataFilesList

    return DataFilesDict({split: DataFilesList(names, [() for _ in names])})
