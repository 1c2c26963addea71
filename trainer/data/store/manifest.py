"""The manifest of a prepared token set: what is in it, in numbers and hashes. Imports neither torch nor datasets.

<root>/<name>/
  manifest.json               this file, written last
  tokenizer/                  see trainer/data/tokenize/tokenizer.py
  <split>/<shard>.bin         token ids, raw little-endian uint16 or uint32; each document ends with `eos_id`
  <split>/<shard>.docs        end of each document in the shard, in tokens, raw little-endian uint64
  <split>/<shard>.xxh         XXH3-64 of each block of the .bin, raw little-endian uint64
  parts/                      records of finished parts, from which preparation goes on
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.contract.errors import UserError, did_you_mean

FORMAT = 1
FILE = "manifest.json"
BLOCK_BYTES = 1 << 14  # small, because a random sample pays for whole blocks when it is the first to touch them


class Shard(BaseModel):
    """One shard of one split. `file` is relative to the set and without suffix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    source: str
    tokens: int
    documents: int
    text_bytes: int  # UTF-8 bytes of the text
    words: int  # separated by white space
    hash: str  # of the tokens: SHA-256 over the .bin file
    blocks_hash: str  # of the block hashes: SHA-256 over the .xxh file
    documents_hash: str  # of the document ends: SHA-256 over the .docs file


class Manifest(BaseModel):
    """A prepared token set. Splits are `train`, `held_out` and one for each extra held-out set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: str
    complete: bool  # false while preparation goes on: the shards so far can be trained on
    dtype: Literal["uint16", "uint32"]
    vocab_size: int
    eos_id: int
    tokenizer_hash: str
    config_hash: str
    config: dict[str, Any]  # what determined the content, see DataConfig.content()
    block_bytes: int = BLOCK_BYTES
    splits: dict[str, list[Shard]]
    unigram_entropy: float | None = None  # of the training tokens, nats a token; None where nobody has counted them
    report: dict[str, Any] = {}  # dropped documents by reason, what the embedded corpus was, compression

    @classmethod
    def open(cls, directory: str | Path) -> Manifest:
        """Read the manifest of the set in a directory. Raises UserError when there is none or it is unreadable."""
        path = Path(directory) / FILE
        try:
            return cls.parse(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            raise UserError(
                f"no prepared data in {directory} (no {FILE}); prepare them first: escala data prepare CONFIG"
            ) from None

    @classmethod
    def parse(cls, text: str, where: str) -> Manifest:
        """Read a manifest from its text. `where` is named in errors."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"{where} is not JSON ({error}); prepare the data again") from None
        version = values.get("format") if isinstance(values, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise UserError(f"{where} has format {version}, this Escala reads up to {FORMAT}; update Escala")
        try:
            manifest = cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{where} is not a manifest: {key}: {first['msg']}; prepare the data again") from None
        if not 0 <= manifest.eos_id < manifest.vocab_size:
            raise UserError(
                f"{where}: the end token, id {manifest.eos_id}, is outside the vocabulary of {manifest.vocab_size}; "
                "prepare the data again"
            )
        return manifest

    def shards(self, split: str) -> list[Shard]:
        """Return the shards of a split. `held_out:<source>` is the part of the held-out split from one source."""
        name, _, source = split.partition(":")
        if name not in self.splits:
            raise UserError(f"the set {self.name!r} has no split {name!r}{did_you_mean(name, self.splits)}")
        if not source:
            return self.splits[name]
        sources = {shard.source for shard in self.splits[name]}
        if source not in sources:
            raise UserError(f"split {name!r} of {self.name!r} has no source {source!r}{did_you_mean(source, sources)}")
        return [shard for shard in self.splits[name] if shard.source == source]

    def tokens(self, split: str) -> int:
        """Return the number of tokens, ends of documents included."""
        return sum(shard.tokens for shard in self.shards(split))

    def documents(self, split: str) -> int:
        """Return the number of documents."""
        return sum(shard.documents for shard in self.shards(split))

    def text_bytes(self, split: str) -> int:
        """Return the UTF-8 bytes of the text of a split."""
        return sum(shard.text_bytes for shard in self.shards(split))

    def bytes_per_token(self, split: str) -> float:
        """Return UTF-8 bytes of text per token of a whole split; a sample of it may have others.

        Not a number for imported tokens whose text is not known.
        """
        return self.text_bytes(split) / self.tokens(split) if self.text_bytes(split) else float("nan")

    def words(self, split: str) -> int:
        """Return the white-space separated words of a split.

        Word perplexity = exp(loss * tokens / words), with one more word for each document that stands for a line, where
        the loss is the mean over all tokens of the split, not over a sample.
        """
        return sum(shard.words for shard in self.shards(split))

    def sources(self, split: str) -> list[str]:
        """Return the sources of a split in the order of their shards."""
        return list(dict.fromkeys(shard.source for shard in self.shards(split)))

    def evaluation_sets(self) -> list[str]:
        """Return the names of all sets to evaluate on: held_out, its parts by source where several, extra sets."""
        names = []
        for split, shards in self.splits.items():
            if split == "train" or not shards:
                continue
            names.append(split)
            sources = self.sources(split)
            names += [f"{split}:{source}" for source in sources] if len(sources) > 1 else []
        return names

    @property
    def data_hash(self) -> str:
        """Hash of every token of every split, of their order, and of the tokenizer."""
        return self._hash(lambda shard: [shard.source, shard.tokens, shard.hash, shard.documents_hash])

    def prefix(self, shards: dict[str, int]) -> Manifest:
        """Return the set as it was when its splits had so many shards: a run that began then goes on with it."""
        short = {name: n for name, n in shards.items() if n > len(self.splits.get(name, []))}
        if short:
            name, wanted = next(iter(short.items()))
            raise UserError(
                f"split {name!r} of {self.name!r} has {len(self.splits.get(name, []))} shards, not {wanted}"
            )
        splits = {name: self.splits[name][:n] for name, n in shards.items()}
        return self.model_copy(update={"splits": splits, "complete": False})

    def _hash(self, identity: Callable[[Shard], list[Any]]) -> str:
        content = {name: [identity(shard) for shard in shards] for name, shards in sorted(self.splits.items())}
        values = [self.dtype, self.vocab_size, self.eos_id, self.tokenizer_hash, content]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

    def save(self, directory: Path) -> None:
        """Publish the manifest in one step."""
        from trainer.contract.run_dir import write_atomically

        write_atomically(directory / FILE, self.model_dump_json(indent=1) + "\n")
