"""Make a set of token files that were written elsewhere, and write a split as such a file."""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config.data import HELD_OUT, TRAIN
from trainer.contract.errors import UserError
from trainer.data.prepare.encode import SplitRule
from trainer.data.prepare.parts import dtype_for
from trainer.data.store.manifest import FILE, Manifest, Shard
from trainer.data.store.shard_writer import Encoded, ShardWriter
from trainer.data.store.token_files import HEADER, MAGIC, MEGATRON_DTYPES, TokenFile, open_tokens
from trainer.data.store.token_set import TokenSet
from trainer.data.store.unigram import unigram_entropy
from trainer.data.tokenize.tokenizer import DIRECTORY, META, Tokenizer, load_tokenizer, locate_tokenizer, read_meta

WRITTEN_AT_A_TIME = 1 << 22  # tokens
Tokens = npt.NDArray[np.int64]


def import_tokens(
    files: Sequence[Path],
    target: Path,
    *,
    tokenizer_directory: Path,
    held_out_fraction: float,
    raw_dtype: str = "uint16",
    shard_tokens: int = 1 << 26,
) -> Manifest:
    """Make a set of token files that were written with the tokenizer of `tokenizer_directory`.

    Documents are held out by the hash of their text. Documents without an end token get one; the report counts them.
    `target` appears when all of the set is on disk. Raises UserError where a token is outside the vocabulary.
    """
    tokenizer = load_tokenizer(tokenizer_directory)
    rule = SplitRule(held_out_fraction)
    splits: dict[str, list[Shard]] = {TRAIN: [], HELD_OUT: []}
    report: dict[str, dict[str, Any]] = {}
    with _appearing(target) as root:
        for tag, file in source_tags(files).items():
            opened = open_tokens(file, raw_dtype, tokenizer)
            itemsize = np.dtype(dtype_for(tokenizer.vocab_size)).itemsize
            writers = {split: ShardWriter(root, f"{split}/{tag}", tag, itemsize, shard_tokens) for split in splits}
            ends_added = sum(_write(piece, tokenizer, rule, writers) for piece in _documents(file, opened, tokenizer))
            for split, writer in writers.items():
                splits[split] += writer.close()
            report[tag] = {"imported_from": file.name, "tokens": len(opened.tokens), "ends_added": ends_added}
        if not splits[TRAIN]:
            raise UserError(f"all documents of {len(files)} file(s) were held out; lower --held-out-fraction")
        _copy_tokenizer(tokenizer_directory, root)
        dtype = dtype_for(tokenizer.vocab_size)
        manifest = Manifest(
            name=target.name,
            complete=True,
            dtype=dtype,
            vocab_size=tokenizer.vocab_size,
            eos_id=tokenizer.eos_id,
            tokenizer_hash=tokenizer.hash,
            config_hash="",
            config={},
            splits=splits,
            unigram_entropy=unigram_entropy(root, splits[TRAIN], dtype, tokenizer.vocab_size),
            report=report,
        )
        manifest.save(root)
    return manifest


def _write(document: Tokens, tokenizer: Tokenizer, rule: SplitRule, writers: dict[str, ShardWriter]) -> bool:
    """Append a document to its split; return whether it was given its end token."""
    without_end = bool(document[-1] != tokenizer.eos_id)
    tokens = np.append(document, tokenizer.eos_id) if without_end else document
    text = tokenizer.decode(tokens[:-1].tolist())
    raw = text.encode("utf-8", errors="replace")
    writer = writers[rule(raw) or TRAIN]
    content = tokens.astype(f"<u{writer.itemsize}").tobytes()
    writer.append(Encoded(content, [len(tokens)], [len(raw)], [len(text.split())]))
    return without_end


def source_tags(files: Sequence[Path]) -> dict[str, Path]:
    """Return the files by a name for each, made from its stem: shards and reports go by it, so no two are equal."""
    named: dict[str, Path] = {}
    for file in files:
        if file.resolve() in {other.resolve() for other in named.values()}:
            raise UserError(f"{file} is given twice; its documents would be in the set twice")
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-.") or "tokens"
        tag, number = stem, 1
        while tag in named:
            number += 1
            tag = f"{stem}-{number}"
        named[tag] = file
    return named


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Give an empty directory that becomes `target` in one step, or goes where anything fails."""
    if (target / FILE).exists():
        raise UserError(f"{target} holds a set already; choose another directory")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is no empty directory; choose another one")
    root = target.with_name(f".{target.name}.{os.getpid()}")
    root.mkdir(parents=True)
    try:
        yield root
        try:
            root.rename(target)
        except OSError as error:  # another import was faster
            raise UserError(f"{target} appeared meanwhile ({error.strerror}); choose another directory") from None
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _documents(file: Path, opened: TokenFile, tokenizer: Tokenizer) -> Iterator[Tokens]:
    """Yield the documents of a file. Raises UserError for an id that is not in the vocabulary."""
    begin = 0
    for end in opened.ends.tolist():
        raw = np.asarray(opened.tokens[begin:end])
        if int(raw.max()) >= tokenizer.vocab_size or int(raw.min()) < 0:
            outside = raw[(raw >= tokenizer.vocab_size) | (raw < 0)][0]
            raise UserError(
                f"{file}: token {outside} in the document at {begin} is outside the vocabulary of "
                f"{tokenizer.vocab_size}; the file was written with another tokenizer"
            )
        yield raw.astype(np.int64)
        begin = end


def _copy_tokenizer(source: Path, target: Path) -> None:
    path = locate_tokenizer(source)
    (target / DIRECTORY).mkdir(parents=True, exist_ok=True)
    for name in (META, read_meta(path).get("file")):
        if name:
            (target / DIRECTORY / name).write_bytes((path / name).read_bytes())


def export_tokens(directory: Path, split: str, target: Path) -> tuple[int, str]:
    """Write a split as `target`: .npy, raw .bin, or (.idx given) Megatron's .bin and .idx.

    Returns how many tokens were written, and their type.
    """
    tokens = TokenSet.open(directory, split)
    total = tokens.manifest.tokens(split)
    if target.suffix not in (".npy", ".bin", ".idx"):
        raise UserError(f"{target}: export to .npy, .bin (raw) or .idx (Megatron, with its .bin beside it)")
    if target.suffix == ".bin" and target.with_suffix(".idx").exists():
        raise UserError(f"{target.with_suffix('.idx')} is there: {target} would be taken for its tokens; remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    content = target.with_suffix(".bin") if target.suffix == ".idx" else target
    # Megatron has no uint32: its readers take int32, which holds every id below 2^31.
    dtype = "<i4" if target.suffix == ".idx" and tokens.dtype.itemsize == 4 else tokens.dtype.str
    temporary = {file: file.with_name(f".{file.name}.part") for file in {content, target}}
    try:
        if target.suffix == ".idx":
            _write_index(tokens, temporary[target], dtype)
        _write_tokens(tokens, total, temporary[content], dtype, header=target.suffix == ".npy")
        for file, written in temporary.items():
            written.replace(file)
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)
    return total, np.dtype(dtype).name


def _write_tokens(tokens: TokenSet, total: int, target: Path, dtype: str, *, header: bool) -> None:
    with target.open("wb") as out:
        if header:
            np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": (total,)})
        for begin in range(0, total, WRITTEN_AT_A_TIME):
            piece = tokens.read(np.array([begin]), min(WRITTEN_AT_A_TIME, total - begin))
            out.write(piece.astype(dtype).tobytes())


def _write_index(tokens: TokenSet, target: Path, dtype: str) -> None:
    ends = np.concatenate([first + ends for first, ends in tokens.pool_documents()])
    sizes = np.diff(ends, prepend=0)
    if sizes.max() >= 2**31 or tokens.manifest.vocab_size > 2**31:
        raise UserError(f"a document of {sizes.max()} tokens: Megatron's index counts them in 31 bits; export to .npy")
    code = {value: key for key, value in MEGATRON_DTYPES.items()}[dtype]
    pointers = (ends - sizes) * np.dtype(dtype).itemsize
    with target.open("wb") as out:
        out.write(MAGIC + struct.pack(HEADER, 1, code, len(sizes), len(sizes) + 1))
        out.write(sizes.astype("<i4").tobytes() + pointers.astype("<i8").tobytes())
        out.write(np.arange(len(sizes) + 1, dtype="<i8").tobytes())
