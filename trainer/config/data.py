"""The data section: where text comes from, how it becomes tokens, and where the shards lie."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.config.base import Section
from trainer.config.span import Count


class SourceConfig(Section):
    """One source of documents, read through `datasets` in streaming mode."""

    path: str = Field("embedded", description="'embedded', a hub dataset, or files: jsonl, parquet, text, globs, URLs")
    subset: str | None = None
    split: str = "train"
    column: str = Field("text", description="the column that holds the text")
    weight: float = Field(1.0, gt=0, description="share of this source in a mixture")
    max_bytes: Count | None = Field(None, gt=0, description="stop reading after so much text")


class TokenizerConfig(Section):
    """A sentencepiece model that is trained on a sample of the sources."""

    kind: Literal["bpe", "unigram"] = "bpe"
    vocab_size: Count = Field(4096, gt=0)
    byte_fallback: bool = True
    sample_bytes: Count = Field(20_000_000, gt=0)


class DataConfig(Section):
    """Sources, tokenizer and shards of one token set."""

    name: str = "embedded"
    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    tokenizer: TokenizerConfig = TokenizerConfig()
    held_out_fraction: float = Field(0.01, gt=0, lt=1, description="share of documents for validation, by content hash")
    root: str = Field("data", description="directory that holds prepared sets; this one lies in <root>/<name>")
