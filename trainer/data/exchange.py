"""Token files of other systems: read them into a set, and write a set as theirs.

`.bin` with `.idx` beside it is Megatron-LM's indexed dataset (megatron/core/datasets/indexed_dataset.py); a lone `.bin`
is raw little-endian tokens, as nanoGPT writes them; `.npy` is a one-dimensional NumPy array.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.config.data import HELD_OUT, TRAIN
from trainer.data.encode import SplitRule
from trainer.data.manifest import FILE, Manifest
from trainer.data.parts import dtype_for
from trainer.data.shard_writer import Encoded, ShardWriter
from trainer.data.token_set import TokenSet
from trainer.data.tokenizer import DIRECTORY, Tokenizer, load_tokenizer
from trainer.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
WHOLE = 1 << 20  # tokens of a document of files that do not say where documents end


@dataclass(frozen=True)
class TokenFile:
    """Tokens, mapped, and where their documents end."""

    tokens: npt.NDArray
    ends: npt.NDArray[np.int64]


def open_tokens(path: Path, raw_dtype: str, eos_id: int | None) -> TokenFile:
    """Open a .npy, a .bin with .idx, or a raw .bin of `raw_dtype`. Raises UserError for anything else."""
    if not path.exists():
        raise UserError(f"there is no file {path}")
    if path.suffix == ".npy":
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise UserError(f"{path} is not an array of numbers: {error}") from None
    elif path.with_suffix(".idx").exists():
        return _open_megatron(path)
    elif path.suffix == ".bin":
        tokens = np.memmap(path, dtype=np.dtype(raw_dtype).newbyteorder("<"), mode="r")
    else:
        raise UserError(f"{path}: token files end with .npy or .bin")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise UserError(f"{path} holds {tokens.ndim}-dimensional {tokens.dtype}; a row of integers is needed")
    return TokenFile(tokens, _ends(tokens, eos_id))


def _open_megatron(path: Path) -> TokenFile:
    index = path.with_suffix(".idx").read_bytes()
    if index[:9] != MAGIC:
        raise UserError(f"{path.with_suffix('.idx')} is not a Megatron index")
    version, code, sequences, documents = struct.unpack_from("<QBQQ", index, 9)
    if version != 1 or MEGATRON_DTYPES.get(code, "f")[-2] not in "iu":
        raise UserError(f"{path.with_suffix('.idx')}: version {version} with type code {code} cannot be read")
    begin = 9 + struct.calcsize("<QBQQ")
    sizes = np.frombuffer(index, "<i4", sequences, begin).astype(np.int64)
    boundaries = np.frombuffer(index, "<i8", documents, begin + 12 * sequences)
    tokens = np.memmap(path, dtype=MEGATRON_DTYPES[code], mode="r")
    ends = np.cumsum(sizes)
    if len(ends) and ends[-1] != len(tokens):
        raise UserError(f"{path} has {len(tokens)} tokens, its index says {ends[-1]}: one of them is damaged")
    return TokenFile(tokens, ends[boundaries[1:] - 1])


def _ends(tokens: npt.NDArray, eos_id: int | None) -> npt.NDArray[np.int64]:
    """Return the ends of documents: after each end token, or every WHOLE tokens where there is none."""
    if eos_id is not None:
        found = [np.flatnonzero(tokens[i : i + WHOLE] == eos_id) + i + 1 for i in range(0, len(tokens), WHOLE)]
        ends = np.concatenate([*found, []]).astype(np.int64)
    else:
        ends = np.arange(WHOLE, len(tokens), WHOLE, dtype=np.int64)
    if len(tokens) and (len(ends) == 0 or ends[-1] < len(tokens)):
        ends = np.append(ends, len(tokens))
    return ends


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

    Documents are held out by the hash of their text. Raises UserError where a token is outside the vocabulary.
    """
    if (target / FILE).exists():
        raise UserError(f"{target} holds a set already; choose another directory")
    tokenizer = load_tokenizer(tokenizer_directory)
    dtype = dtype_for(tokenizer.vocab_size)
    rule = SplitRule(held_out_fraction)
    splits: dict[str, list] = {TRAIN: [], HELD_OUT: []}
    for file in files:
        opened = open_tokens(file, raw_dtype, tokenizer.eos_id)
        writers = {
            split: ShardWriter(target, f"{split}/{file.stem}", file.stem, np.dtype(dtype).itemsize, shard_tokens)
            for split in splits
        }
        for tokens in _documents(file, opened, tokenizer):
            text = tokenizer.decode(tokens[:-1].tolist())
            raw = text.encode("utf-8", errors="replace")
            piece = Encoded(
                tokens.astype(f"<u{np.dtype(dtype).itemsize}").tobytes(), [len(tokens)], [len(raw)], [len(text.split())]
            )
            writers[rule(raw) or TRAIN].append(piece)
        for split, writer in writers.items():
            splits[split] += writer.close()
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
        report={"imported": [str(file.name) for file in files]},
    )
    _copy_tokenizer(tokenizer_directory, target)
    manifest.save(target)
    return manifest


def _documents(file: Path, opened: TokenFile, tokenizer: Tokenizer) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the documents of a file, each with its end token."""
    begin = 0
    for end in opened.ends.tolist():
        tokens = np.asarray(opened.tokens[begin:end]).astype(np.int64)
        if len(tokens) and (tokens.max() >= tokenizer.vocab_size or tokens.min() < 0):
            raise UserError(
                f"{file}: token {tokens.max()} in the document at {begin} is outside the vocabulary of "
                f"{tokenizer.vocab_size}; the file was written with another tokenizer"
            )
        if not len(tokens) or tokens[-1] != tokenizer.eos_id:
            tokens = np.append(tokens, tokenizer.eos_id)
        yield tokens
        begin = end


def _copy_tokenizer(source: Path, target: Path) -> None:
    source = source / DIRECTORY if (source / DIRECTORY).exists() else source
    (target / DIRECTORY).mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        (target / DIRECTORY / file.name).write_bytes(file.read_bytes())


def export_tokens(directory: Path, split: str, target: Path) -> int:
    """Write a split as `target`: .npy, raw .bin, or (.idx given) Megatron's .bin and .idx. Returns its tokens."""
    tokens = TokenSet.open(directory, split)
    total = tokens.manifest.tokens(split)
    if target.suffix not in (".npy", ".bin", ".idx"):
        raise UserError(f"{target}: export to .npy, .bin (raw) or .idx (Megatron, with its .bin beside it)")
    target.parent.mkdir(parents=True, exist_ok=True)
    content = target.with_suffix(".bin") if target.suffix == ".idx" else target
    # Megatron has no uint32: its readers take int32, which holds every id below 2^31.
    dtype = "<i4" if target.suffix == ".idx" and tokens.dtype.itemsize == 4 else tokens.dtype.str
    temporary = content.with_name(f".{content.name}.part")
    with temporary.open("wb") as out:
        if target.suffix == ".npy":
            np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": (total,)})
        for begin in range(0, total, 1 << 22):
            piece = tokens.read(np.array([begin]), min(1 << 22, total - begin))
            out.write(piece.astype(dtype).tobytes())
    if target.suffix == ".idx":
        _write_index(tokens, target, dtype)
    temporary.replace(content)
    return total


def _write_index(tokens: TokenSet, target: Path, dtype: str) -> None:
    ends = np.concatenate([first + ends for first, ends in tokens.pool_documents()])
    sizes = np.diff(ends, prepend=0)
    code = {value: key for key, value in MEGATRON_DTYPES.items()}[dtype]
    pointers = (ends - sizes) * np.dtype(dtype).itemsize
    with target.open("wb") as out:
        out.write(MAGIC + struct.pack("<QBQQ", 1, code, len(sizes), len(sizes) + 1))
        out.write(sizes.astype("<i4").tobytes() + pointers.astype("<i8").tobytes())
        out.write(np.arange(len(sizes) + 1, dtype="<i8").tobytes())
