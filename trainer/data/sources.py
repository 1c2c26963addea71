"""Sources of documents: every one is read through `datasets` in streaming mode, a part at a time."""

from __future__ import annotations

import glob
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.config.data import SourceConfig
from trainer.data import embedded
from trainer.data.steady import steadily
from trainer.errors import UserError, did_you_mean

MOST_PARTS = 256
SUFFIXES = {"json": (".jsonl", ".json", ".ndjson"), "parquet": (".parquet", ".pq"), "text": (".txt", ".text", ".md")}
USUAL_RATIO = 3  # of text to its compressed size
COMPRESSION = (".gz", ".zst", ".bz2", ".xz", ".zip")
CHUNK_BYTES = 1 << 20  # that `datasets` parses at a time: its 10 MB cost 120 MB more, and no less time
QUICK_RETRIES = 3
NOT_ON_THE_HUB = ("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError")


class Source:
    """An opened source, cut into `num_parts` parts: each is read by itself and always holds the same documents."""

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self._dataset = _open(config)
        files = int(self._dataset.num_shards)
        wanted = config.parts or (1 if config.max_bytes else min(files, MOST_PARTS))
        self.num_parts = min(wanted, files)

    def check(self) -> None:
        """Read one row. Raises UserError for a source that cannot be read, and for a column without text."""
        for row in self._steady_rows(0):
            self._text(row)
            return

    def documents(self, part: int, max_bytes: int | None = None) -> Iterator[str]:
        """Yield the texts of one part that pass the filter, each cut to its length cap.

        Reading goes on after failures of the network, from the document where it stopped. Raises UserError for a
        column that is not there, for a source that stays silent or broken, and for content that is not text.
        """
        config, budget = self.config, max_bytes
        pattern = re.compile(config.matching) if config.matching else None
        for row in self._steady_rows(part):
            text = self._text(row)
            if config.max_chars is not None:
                text = text[: config.max_chars]
            if len(text) < config.min_chars or (pattern and not pattern.search(text)):
                continue
            if budget is not None:
                budget -= len(text.encode("utf-8", errors="replace"))
                if budget < 0:
                    return
            yield text

    def part_budget(self) -> int | None:
        """Return the cap on the text of one part: the source's cap, shared equally."""
        return self.config.max_bytes // self.num_parts if self.config.max_bytes else None

    def _steady_rows(self, part: int) -> Iterator[dict[str, Any]]:
        return steadily(
            lambda skip: self._rows(part, skip),
            name=_named(self.config),
            retries=self.config.retries,
            stall_seconds=self.config.stall_seconds,
        )

    def _rows(self, part: int, skip: int) -> Iterator[dict[str, Any]]:
        dataset = self._dataset
        if self.num_parts > 1:
            dataset = dataset.shard(num_shards=self.num_parts, index=part)
        return iter(dataset.skip(skip) if skip else dataset)

    def _text(self, row: dict[str, Any]) -> str:
        column = self.config.column
        if column not in row:
            raise UserError(
                f"source {self.config.tag!r} ({self.config.path}) has no column {column!r}{did_you_mean(column, row)}"
            )
        text = row[column]
        if text is None:
            return ""
        if not isinstance(text, str):
            raise UserError(
                f"column {column!r} of source {self.config.tag!r} holds {type(text).__name__}, not text; "
                f"columns with text: {', '.join(k for k, v in row.items() if isinstance(v, str)) or 'none'}"
            )
        return text


def source_format(config: SourceConfig) -> str:
    """Return embedded, hub, json, parquet or text: as configured, or by the suffix of the path."""
    if config.path == "embedded":
        return "embedded"
    if config.format != "auto":
        return config.format
    name = config.path.split("?")[0].lower()
    for suffix in COMPRESSION:
        name = name.removesuffix(suffix)
    for kind, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", config.path):
        return "hub"
    raise UserError(f"the suffix of {config.path} does not say what it holds; set 'format' to json, parquet or text")


def local_bytes(config: SourceConfig) -> int:
    """Return about how much text the local files of a source hold, or 0 where that is not known."""
    if source_format(config) not in ("json", "text") or "://" in config.path:
        return 0
    return sum(file.stat().st_size * (USUAL_RATIO if file.suffix in COMPRESSION else 1) for file in local_files(config))


def local_files(config: SourceConfig) -> list[Path]:
    """Return the files of this machine that the path of a source names."""
    return [Path(name) for name in glob.glob(config.path, recursive=True)]  # noqa: PTH207 - absolute patterns


def _refuse_nothing(config: SourceConfig) -> None:
    """Raise UserError where a path of this machine names no file, or only empty ones."""
    if "://" in config.path:
        return
    files = local_files(config)
    if not files:
        raise UserError(f"source {config.tag!r}: there is no file {config.path}")
    if not any(file.stat().st_size for file in files):
        raise UserError(f"source {config.tag!r}: {config.path} is empty ({len(files)} file(s) of 0 bytes)")


def _open(config: SourceConfig) -> Any:
    import datasets

    datasets.disable_progress_bars()
    kind = source_format(config)
    if kind == "embedded":
        return datasets.IterableDataset.from_generator(embedded.documents)
    if kind != "hub":
        _refuse_nothing(config)
    _retry_in_our_way(datasets.config)
    # A server may fail or fall silent while the dataset is opened, just as while its rows are read.
    (dataset,) = steadily(
        lambda _: iter([_load(config, kind)]),
        name=_named(config),
        retries=config.retries,
        stall_seconds=config.stall_seconds,
    )
    return dataset


def _named(config: SourceConfig) -> str:
    return f"source {config.tag!r} ({config.path})"


def _retry_in_our_way(settings: Any) -> None:
    """Let `datasets` try again a few times where it stopped, at varying moments; pauses that grow are ours.

    Its own are the same each time and for everybody, and take minutes in silence.
    """
    for action in ("READ", "OPEN"):
        setattr(settings, f"STREAMING_{action}_MAX_RETRIES", QUICK_RETRIES)
    for pause in ("READ_RETRY", "READ_SERVER_UNAVAILABLE_RETRY", "READ_RATE_LIMIT_RETRY", "OPEN_RETRY"):
        setattr(settings, f"STREAMING_{pause}_INTERVAL", random.uniform(0.5, 1.5))  # noqa: S311


def _load(config: SourceConfig, kind: str) -> Any:
    """Open a dataset. Raises UserError for what is not there, and whatever `datasets` raises."""
    try:
        return _load_hub(config) if kind == "hub" else _load_files(config, kind)
    except ImportError as error:
        raise UserError(f"{_named(config)} needs a package that is not installed: {error}") from None
    except StopIteration:  # `datasets` takes the first of no files
        raise UserError(f"{_named(config)}: there is no such file") from None
    except Exception as error:
        if type(error).__name__ in NOT_ON_THE_HUB:
            raise UserError(
                f"{_named(config)} is not on the hub, or not for everybody: check the name, and log in (hf auth login, "
                f"or HF_TOKEN in the environment) where it is private or gated"
            ) from None
        raise


def _load_hub(config: SourceConfig) -> Any:
    import datasets

    return datasets.load_dataset(
        config.path, config.subset, split=config.split, streaming=True, storage_options=config.storage_options or None
    )


def _load_files(config: SourceConfig, kind: str) -> Any:
    import datasets

    options: dict[str, Any] = {} if kind == "parquet" else {"chunksize": CHUNK_BYTES}
    if kind == "text":
        options |= {
            "sample_by": {"lines": "line", "paragraphs": "paragraph", "files": "document"}[config.documents_are]
        }
    files = {config.split: config.path}
    storage = config.storage_options or None
    return datasets.load_dataset(
        kind, data_files=files, split=config.split, streaming=True, storage_options=storage, **options
    )
