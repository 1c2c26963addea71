"""Sources of documents: each is cut into parts of whole files, and a part is read as a stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice, pairwise
from typing import TypeVar

from trainer.config.data import SourceConfig
from trainer.contract.errors import UserError
from trainer.data.source import embedded
from trainer.data.source.hub import HubDataset, find_dataset
from trainer.data.source.inputs import EMBEDDED, InputFile, embedded_files, list_files, look, open_file
from trainer.data.source.json_rows import LOOKED_AT
from trainer.data.source.retry import steadily
from trainer.data.source.rows import read_rows
from trainer.data.source.tally import Tally
from trainer.data.source.unpacking import SUFFIXES as PACKED
from trainer.data.source.unpacking import suffix_packing

T = TypeVar("T")
MOST_PARTS = 256
SUFFIXES = {"json": (".jsonl", ".json", ".ndjson"), "parquet": (".parquet", ".pq"), "text": (".txt", ".text", ".md")}
USUAL_RATIO = 3  # of text to its compressed size
REPLACEMENT = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Source:
    """A source, cut into parts: each is read by itself and always holds the same documents.

    Opening looks its files up, and goes on after failures of the network. Raises UserError for a source that is not
    there.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.files = self._find()
        self.parts: Sequence[Sequence[InputFile]] = cut_into_parts(config, self.files)
        self.gave_text = False  # some document of it has passed the filters
        self.last = Tally()  # of the part that was read last
        self._reading: InputFile | None = None

    @property
    def num_parts(self) -> int:
        """The number of parts."""
        return len(self.parts)

    def keep_to(self, parts: Sequence[Sequence[InputFile]]) -> None:
        """Read the files of each part as they were noted when the preparation began."""
        self.parts = parts

    def _find(self) -> list[InputFile]:
        kind = source_format(self.config)
        if kind == "embedded":
            return embedded_files()
        if kind == "hub":
            return self._hub.files
        return self._patiently(lambda: list_files(self.config))

    def check(self) -> None:
        """Read the first text. Raises UserError for a source that cannot be read, and for a column without text."""
        next((text for text in islice(self._texts(0), LOOKED_AT) if text is not None), None)

    def documents(self, part: int, max_bytes: int | None = None, tally: Tally | None = None) -> Iterator[str]:
        """Yield the texts of one part that pass the filter, each cut to its length cap, and count all rows in `tally`.

        Every text can be written as UTF-8. Reading goes on after failures of the network, from the document where it
        stopped. Raises UserError for a file that is not what was noted or cannot be read to its end, for a column that
        is not there, for content that is not text, and for a source that stays silent or broken.
        """
        config, budget = self.config, max_bytes
        tally = self.last = tally if tally is not None else Tally()
        pattern = re.compile(config.matching) if config.matching else None
        for text in self._texts(part):
            tally.rows += 1
            if text is None:
                tally.without_text += 1
                continue
            if not _encodable(text):
                tally.surrogates += 1
                text = _SURROGATE.sub(REPLACEMENT, text)
            if config.max_chars is not None and len(text) > config.max_chars:
                tally.cut += 1
                text = text[: config.max_chars]
            if len(text) < config.min_chars:
                tally.too_short += 1
                continue
            if pattern and not pattern.search(text):
                tally.not_matching += 1
                continue
            if budget is not None:
                budget -= len(text.encode())
                if budget < 0:
                    if (file := self._reading) is not None:  # the others were compared at their ends
                        self._patiently(lambda: self._refuse_changed(file))
                    return
            self.gave_text = True
            yield text

    def part_budget(self) -> int | None:
        """Return the cap on the text of one part: the source's cap, shared equally."""
        return self.config.max_bytes // self.num_parts if self.config.max_bytes else None

    @cached_property
    def _hub(self) -> HubDataset:
        return self._patiently(lambda: find_dataset(self.config))

    def _patiently(self, action: Callable[[], T]) -> T:
        """Return what an action returns; a server may fail or fall silent in it, just as while rows are read."""
        (result,) = self._steadily(lambda _: iter([action()]))
        return result

    def _steadily(self, open_at: Callable[[int], Iterator[T]]) -> Iterator[T]:
        config = self.config
        name = f"source {config.tag!r} ({config.path})"
        return steadily(open_at, name=name, retries=config.retries, stall_seconds=config.stall_seconds)

    def _texts(self, part: int) -> Iterator[str | None]:
        whole: dict[str, int] = {}  # rows of the files that were read to their end
        return self._steadily(lambda skip: self._rows(part, skip, whole))

    def _rows(self, part: int, skip: int, whole: dict[str, int]) -> Iterator[str | None]:
        """Yield the rows of a part but for the first `skip`, without opening the files that these fill."""
        if source_format(self.config) == "hub" and self._hub.kind == "other":
            yield from _skipped(self._hub.rows(self.parts[part]), skip)
            return
        for file in self.parts[part]:
            if file.name in whole and whole[file.name] <= skip:
                skip -= whole[file.name]
                continue
            number = 0
            for number, text in enumerate(self._file_rows(file), 1):
                if number > skip:
                    yield text
            whole[file.name] = number
            skip = max(0, skip - number)

    def _file_rows(self, file: InputFile) -> Iterator[str | None]:
        config, kind = self.config, source_format(self.config)
        documents_are: str = config.documents_are
        self._reading = file
        if file.name == EMBEDDED:
            yield from (row["text"] for row in embedded.documents())
        else:
            if kind == "hub":
                kind, documents_are = self._hub.kind, self._hub.documents_are
            with open_file(file, config) as opened:
                where = f"source {config.tag!r}: {file.name}"
                yield from read_rows(opened, file.name, where, kind, config.column, documents_are)
        self._refuse_changed(file)

    def _refuse_changed(self, file: InputFile) -> None:
        """Raise UserError where a file is not what was noted when the preparation began."""
        now = look(file.name, self.config, again=True)
        if file.differs(now):
            raise UserError(
                f"source {self.config.tag!r}: {file.name} was changed while it was read ({file.size} bytes of "
                f"{file.stamp} when the preparation began, {now.size} of {now.stamp} now); leave it as it is and run "
                f"the same command again"
            )


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _skipped(rows: Iterator[str | None], skip: int) -> Iterator[str | None]:
    for number, text in enumerate(rows):
        if number >= skip:
            yield text


def cut_into_parts(config: SourceConfig, files: Sequence[InputFile]) -> list[list[InputFile]]:
    """Share files out to parts, in their order: as many as configured, by default one a file and at most 256."""
    wanted = config.parts or (1 if config.max_bytes else min(len(files), MOST_PARTS))
    count = min(wanted, len(files))
    size, more = divmod(len(files), count)
    begins = [size * index + min(index, more) for index in range(count + 1)]
    return [list(files[begin:end]) for begin, end in pairwise(begins)]


def source_format(config: SourceConfig) -> str:
    """Return embedded, hub, json, parquet or text: as configured, or by the suffix of the path."""
    if config.path == EMBEDDED:
        return "embedded"
    if config.format != "auto":
        return config.format
    name = config.path.split("?")[0].lower() if "://" in config.path else config.path.lower()
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    for kind, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", config.path):
        return "hub"
    raise UserError(f"the suffix of {config.path} does not say what it holds; set 'format' to json, parquet or text")


def expected_text(config: SourceConfig, files: Sequence[InputFile]) -> int:
    """Return about how many bytes of text some files of a source hold, or 0 where that is not known."""
    if source_format(config) not in ("json", "text", "embedded") or any(file.size is None for file in files):
        return 0
    return sum((file.size or 0) * (USUAL_RATIO if suffix_packing(file.name) else 1) for file in files)
