"""The data section: where text comes from, how it becomes tokens, and where the shards lie."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from trainer.config.base import Section
from trainer.config.conditional import Conditional
from trainer.config.identity import Determines, Execution, Result, Tokens, determining, hash_of
from trainer.config.names import Name, check_name
from trainer.config.secrets import Location, Options, from_environment
from trainer.config.span import Count

TRAIN, HELD_OUT = "train", "held_out"
USUAL_PIECES = 4096  # of a tokenizer that is trained here
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class SourceConfig(Section):
    """One source of documents, read as a stream."""

    name: Tokens[str | None] = Field(
        None, description="tag of the source in shards and reports; default: made from the path"
    )
    path: Tokens[Location] = Field(
        "embedded", description="'embedded', a hub dataset, or files: jsonl, parquet, text, globs, URLs"
    )
    format: Tokens[Literal["auto", "hub", "json", "parquet", "text"]] = Field(
        "auto", description="auto: by the file's suffix"
    )
    subset: Tokens[str | None] = Field(None, description="configuration of a hub dataset")
    split: Tokens[str] = Field("train", description="split of a hub dataset")
    column: Tokens[str] = Field("text", description="the column that holds the text")
    documents_are: Tokens[Literal["lines", "paragraphs", "files"]] = Field(
        "paragraphs", description="what one document is, in text files"
    )
    weight: Result[float | None] = Field(
        None, gt=0, description="share of the tokens seen; default: by size, none repeated"
    )
    max_bytes: Tokens[Count | None] = Field(None, gt=0, description="stop reading after so much text (UTF-8)")
    min_chars: Tokens[int] = Field(1, gt=0, description="drop shorter documents")
    max_chars: Tokens[Count | None] = Field(None, gt=0, description="cut longer documents off")
    matching: Tokens[str | None] = Field(
        None, description="keep only documents in which this regular expression is found"
    )
    parts: Tokens[int | None] = Field(
        None, gt=0, description="pieces that are prepared and restarted independently; default: by file, at most 256"
    )
    storage: Execution[Options] = Field(
        {}, description="fsspec options of the path's file system; secrets as $VARIABLE alone"
    )
    stall_seconds: Execution[float] = Field(
        300.0, gt=0, description="a source that is silent for so long is reported and left"
    )
    retries: Execution[int] = Field(
        5, ge=0, description="how often reading goes on after a failure, with growing pauses"
    )

    @field_validator("matching")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @property
    def storage_options(self) -> dict[str, object]:
        """The options of the file system with the variables that they name filled in: for use, never for a file."""
        return from_environment(self.storage)

    @property
    def tag(self) -> str:
        """The name, or one made from the last words of the path."""
        if self.name is not None:
            return self.name
        stem = re.sub(r"\.(jsonl|json|parquet|txt|gz|zst|bz2|xz)", "", self.path.rstrip("/").split("/")[-1])
        return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "source"


class TokenizerConfig(Section):
    """How text becomes tokens: a sentencepiece model trained on a sample, bytes, words, or an existing model."""

    conditional: ClassVar = (Conditional(("byte_fallback", "sample_bytes"), {"kind": ("bpe", "unigram")}),)

    kind: Tokens[Literal["bpe", "unigram", "bytes", "word", "sentencepiece", "huggingface"]] = Field(
        "bpe",
        description="bpe and unigram are trained with sentencepiece; word: the closed vocabulary of the training text; "
        "the last two are read from 'path'",
    )
    path: Tokens[str | None] = Field(None, description="an existing tokenizer.model (sentencepiece) or tokenizer.json")
    vocab_size: Tokens[Count | None] = Field(
        None, gt=0, description=f"of a trained tokenizer; default {USUAL_PIECES:,}, and all words for kind word"
    )
    byte_fallback: Tokens[bool] = Field(True, description="characters outside the vocabulary become bytes, not <unk>")
    sample_bytes: Tokens[Count] = Field(20_000_000, gt=0, description="text that the tokenizer is trained on")
    eos: Tokens[str | None] = Field(
        None, description="end-of-document token of a Hugging Face tokenizer, where it is not known"
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_pieces(cls, values: object) -> object:
        """Fill in the default of all kinds but word: it is a part of what names a set."""
        if isinstance(values, dict) and values.get("kind") != "word" and values.get("vocab_size") is None:
            return {**values, "vocab_size": USUAL_PIECES}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> TokenizerConfig:
        if self.kind in ("sentencepiece", "huggingface") and self.path is None:
            raise ValueError(f"a tokenizer of kind {self.kind!r} needs a 'path'")
        if self.kind in ("bpe", "unigram", "bytes", "word") and self.path is not None:
            raise ValueError(
                f"a tokenizer of kind {self.kind!r} has no 'path' (kinds with one: sentencepiece, huggingface)"
            )
        if self.eos is not None and self.kind != "huggingface":
            raise ValueError(
                f"'eos' is for tokenizers of kind 'huggingface'; one of kind {self.kind!r} has its own end"
            )
        least = 256 + 2 if self.byte_fallback else 3
        if self.kind in ("bpe", "unigram") and not least < (self.vocab_size or 0) <= 2**20:
            raise ValueError(f"vocab_size must be over {least} (bytes and control tokens) and at most {2**20}")
        if self.kind == "word" and self.vocab_size is not None and self.vocab_size < 3:
            raise ValueError("vocab_size must be at least 3: <unk>, <eos> and a word")
        return self


class StageConfig(Section):
    """From this many training tokens on, the mixture has these weights."""

    from_tokens: Result[Count] = Field(gt=0, description="the weights hold from this token on")
    weights: Result[dict[str, float]] = Field(description="source -> weight; a source that is left out is not read")


class CacheConfig(Section):
    """The node-local copy of shards whose set lies on a remote file system."""

    directory: Execution[str] = Field(
        "~/.cache/escala/shards", description="local directory, shared by the ranks of a node"
    )
    max_bytes: Execution[Count] = Field(
        50_000_000_000, gt=0, description="least recently used shards are removed beyond this"
    )
    ahead_steps: Execution[int] = Field(
        64, ge=0, description="fetch the shards of so many coming steps in the background"
    )


class DataConfig(Section):
    """Sources, tokenizer and shards of one token set."""

    conditional: ClassVar = (Conditional(("shuffle_window",), {"order": ("shuffled",)}),)

    name: Execution[Name] = Field("embedded", description="of the prepared set")
    sources: tuple[SourceConfig, ...] = Field((SourceConfig(),), min_length=1)
    tokenizer: TokenizerConfig = TokenizerConfig()
    held_out_fraction: Tokens[float] = Field(
        0.01, ge=0, lt=1, description="share of documents for validation, by content hash"
    )
    held_out_sets: tuple[SourceConfig, ...] = Field(
        (), description="sources that are only evaluated on; training documents equal to one of theirs are dropped"
    )
    shard_tokens: Tokens[Count] = Field(
        67_108_864, ge=1024, description="a shard is closed at the first document after so many"
    )
    root: Execution[Location] = Field(
        "data", description="directory or URL that holds prepared sets; this one lies in <root>/<name>"
    )

    begin: Execution[Literal["complete", "published"]] = Field(
        "complete", description="train when all data are prepared, or on what is published while preparation goes on"
    )
    stages: Result[tuple[StageConfig, ...]] = Field((), description="changes of the mixture's weights during training")
    order: Result[Literal["shuffled", "streams"]] = Field(
        "shuffled",
        description="sequences anew in each epoch, or each lane of the batch one stretch of the text, part after part",
        exclude_if=lambda value: value == "shuffled",  # so that runs from before there was a choice keep their identity
    )
    seed: Result[int | None] = Field(
        None,
        ge=0,
        description="of the data order alone; default: the run's seed, which is that of initial values and dropout too",
        exclude_if=lambda value: value is None,  # so that runs without it keep their identity
    )
    shuffle_window: Result[Count | None] = Field(
        None, gt=0, description="shuffle within so many tokens, not the whole set: for sets larger than the cache"
    )
    packing: Result[Literal["concatenate", "best_fit"]] = Field(
        "concatenate", description="cut the stream of documents into sequences, or fit whole documents into them"
    )
    document_mask: Result[bool] = Field(
        False, description="tokens attend to their own document only; best_fit implies it"
    )
    repeat: Execution[bool] = Field(True, description="false refuses a run that is longer than one pass")
    cache: Execution[CacheConfig] = CacheConfig()

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        tags = [source.tag for source in (*self.sources, *self.held_out_sets)]
        for tag in (self.name, *tags):
            if not _NAME.fullmatch(check_name(tag)):
                raise ValueError(f"a name may have letters, digits, '.', '_' and '-', and {tag!r} has others")
        twice = sorted({tag for tag in tags if tags.count(tag) > 1})
        if twice:
            raise ValueError(f"two sources are called {twice[0]!r}; give each a 'name' of its own")
        if reserved := {TRAIN, HELD_OUT} & {source.tag for source in self.held_out_sets}:
            raise ValueError(f"a held-out set cannot be called {min(reserved)!r}")
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            without = self.sources[weighted.index(False)].tag
            raise ValueError(f"either every source has a 'weight' or none; {without!r} has none")
        self._check_stages()
        self._check_streams()
        return self

    def _check_streams(self) -> None:
        """Raise ValueError for what has no meaning where lanes read the text in its order."""
        if self.order != "streams":
            return
        if self.packing != "concatenate":
            raise ValueError(
                f"data.order streams reads the text as it stands, and packing {self.packing} lays it out anew: set "
                "packing to concatenate (document_mask: true keeps documents apart)"
            )
        if self.sources[0].weight is not None:
            raise ValueError(
                "sources are mixed by weight sample by sample, and order streams reads each from end to end: leave the "
                "weights out, or set order to shuffled"
            )

    def _check_stages(self) -> None:
        known = {source.tag for source in self.sources}
        starts = [stage.from_tokens for stage in self.stages]
        if self.stages and self.sources[0].weight is None:
            raise ValueError("stages change the weights of the sources, and the sources have none")
        if starts != sorted(set(starts)):
            raise ValueError(f"stages must begin at increasing token counts, not at {starts}")
        for stage in self.stages:
            if unknown := set(stage.weights) - known:
                raise ValueError(f"stage at {stage.from_tokens} tokens names no source: {min(unknown)!r}")
            if not stage.weights or min(stage.weights.values()) < 0 or sum(stage.weights.values()) <= 0:
                raise ValueError(f"stage at {stage.from_tokens} tokens needs weights of at least 0, not all 0")

    @property
    def directory(self) -> str:
        """Where the prepared set lies: <root>/<name>."""
        return f"{self.root.rstrip('/')}/{self.name}"

    @property
    def confines_documents(self) -> bool:
        """Whether tokens read their own document only, in training, evaluation and decoding alike."""
        return self.document_mask or self.packing == "best_fit"

    def content(self) -> dict[str, object]:
        """Return what determines the tokens of the set, as plain JSON values."""
        return determining(self, Determines.TOKENS)

    def content_hash(self) -> str:
        """Hash of what determines the tokens of the set: the same under every name and in every place."""
        return hash_of(self.content())
