"""Token files of other systems, opened: where their tokens and documents are.

`.bin` with `.idx` beside it is Megatron-LM's indexed dataset (megatron/core/datasets/indexed_dataset.py); a lone `.bin`
is raw little-endian tokens, as nanoGPT writes them; `.npy` is a one-dimensional NumPy array.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.contract.errors import UserError
from trainer.data.tokenize.tokenizer import Tokenizer

MAGIC = b"MMIDIDX\x00\x00"
HEADER = "<QBQQ"  # version, type code, sequences, documents + 1
MEGATRON_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
PIECE = 1 << 20  # tokens that are looked through at a time
LEAST_PAIRS = 8  # tokens from which on a wrong width can be told


@dataclass(frozen=True)
class TokenFile:
    """Tokens, mapped, and where their documents end: after each end token, and where the file says so."""

    tokens: npt.NDArray
    ends: npt.NDArray[np.int64]


def open_tokens(path: Path, raw_dtype: str, tokenizer: Tokenizer) -> TokenFile:
    """Open a .npy, a .bin with .idx, or a raw .bin of `raw_dtype`. Raises UserError for anything else."""
    if not path.is_file():
        raise UserError(f"there is no file {path}" if not path.exists() else f"{path} is a directory, not a token file")
    if path.suffix not in (".npy", ".bin"):
        raise UserError(f"{path}: token files end with .npy or .bin (a Megatron .idx is found beside its .bin)")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: a token file of 0 bytes was never finished, or its copy was cut off")
    said = np.empty(0, dtype=np.int64)
    if path.suffix == ".npy":
        tokens = _open_array(path)
    elif path.with_suffix(".idx").exists():
        tokens, said = _open_megatron(path)
    else:
        tokens = _map(path, raw_dtype)
        _refuse_other_width(path, tokens, raw_dtype, tokenizer.vocab_size)
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise UserError(f"{path} holds {tokens.ndim}-dimensional {tokens.dtype}; a row of integers is needed")
    if len(tokens) == 0:
        raise UserError(f"{path} holds no tokens")
    return TokenFile(tokens, _ends(tokens, tokenizer.eos_id, said))


def _map(path: Path, dtype: str) -> npt.NDArray:
    """Map a raw file of little-endian integers."""
    kind, size = np.dtype(dtype).newbyteorder("<"), path.stat().st_size
    if size % kind.itemsize:
        raise UserError(
            f"{path} has {size} bytes, no whole number of {kind.name} tokens of {kind.itemsize} bytes: it is cut off, "
            "or its tokens have another width (--dtype)"
        )
    return np.memmap(path, dtype=kind, mode="r")


def _open_array(path: Path) -> npt.NDArray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise UserError(f"{path} is not an array of numbers, or is cut off: {error}") from None
    if not isinstance(array, np.ndarray):  # a zip of several, under this suffix
        raise UserError(f"{path} holds several arrays; a row of integers is needed")
    return array


def _refuse_other_width(path: Path, tokens: npt.NDArray, raw_dtype: str, vocab_size: int) -> None:
    """Raise UserError where raw tokens are plainly of the other width: their ids fit the vocabulary so, or only so."""
    begin = np.asarray(tokens[: PIECE // 2 * 2])
    if raw_dtype == "uint16" and len(begin) >= 2 * LEAST_PAIRS:
        pairs = begin[: len(begin) // 2 * 2].view("<u4")
        if begin[::2].any() and int(pairs.max()) < vocab_size:
            raise UserError(
                f"{path}: every second uint16 is the upper half of an id below {vocab_size}, as in a file of uint32: "
                "add --dtype uint32 (or save the tokens as .npy, which states its type)"
            )
    if raw_dtype == "uint32" and int(begin.max()) >= vocab_size > int(begin.view("<u2").max()):
        raise UserError(
            f"{path}: read as uint32 it holds id {begin.max()}, outside the vocabulary of {vocab_size}, and read as "
            "uint16 all ids are inside: leave --dtype uint32 out"
        )


def _open_megatron(path: Path) -> tuple[npt.NDArray, npt.NDArray[np.int64]]:
    """Return the tokens and the ends of the documents of an indexed dataset."""
    index = path.with_suffix(".idx")
    content = index.read_bytes()
    begin = len(MAGIC) + struct.calcsize(HEADER)
    if content[: len(MAGIC)] != MAGIC:
        raise UserError(f"{index} is not a Megatron index")
    if len(content) < begin:
        raise UserError(f"{index} is cut off: it has {len(content)} bytes, and its header {begin}")
    version, code, sequences, boundaries = struct.unpack_from(HEADER, content, len(MAGIC))
    if version != 1 or np.dtype(MEGATRON_DTYPES.get(code, "f8")).kind not in "iu":
        raise UserError(f"{index}: version {version} with type code {code} cannot be read")
    expected = begin + 12 * sequences + 8 * boundaries
    if len(content) not in (expected, expected + sequences):  # with the modes of multimodal sets
        raise UserError(f"{index} has {len(content)} bytes, its counts ask for {expected}: it is cut off or damaged")
    sizes = np.frombuffer(content, "<i4", sequences, begin).astype(np.int64)
    pointers = np.frombuffer(content, "<i8", sequences, begin + 4 * sequences)
    bounds = np.frombuffer(content, "<i8", boundaries, begin + 12 * sequences)
    tokens = _map(path, MEGATRON_DTYPES[code])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if starts[-1] != len(tokens):
        raise UserError(f"{path} has {len(tokens)} tokens, its index says {starts[-1]}: one of them is damaged")
    in_order = boundaries and bounds[0] == 0 and bounds[-1] == sequences and (np.diff(bounds) >= 0).all()
    if not in_order or (sizes < 0).any() or (pointers != starts[:-1] * tokens.dtype.itemsize).any():
        raise UserError(f"{index} is damaged: its sequences or documents do not follow one another")
    return tokens, starts[bounds[1:]]


def _ends(tokens: npt.NDArray, eos_id: int, said: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where documents end. What follows the last end is a document too."""
    found = [np.flatnonzero(tokens[i : i + PIECE] == eos_id) + i + 1 for i in range(0, len(tokens), PIECE)]
    ends: npt.NDArray[np.int64] = np.unique(np.concatenate([*found, said, [len(tokens)]]).astype(np.int64))
    return ends[ends > 0]
