"""Token files of others: what is exported comes back, and what does not fit is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from trainer.data.exchange import MAGIC, export_tokens, import_tokens, open_tokens
from trainer.data.manifest import Manifest
from trainer.data.shard_writer import Encoded, ShardWriter
from trainer.data.token_set import TokenSet
from trainer.data.tokenizer import save_tokenizer
from trainer.data.verify import verify
from trainer.errors import UserError

TEXTS = [f"document {n} " * (n % 7 + 1) for n in range(60)]
EOS = 256


@pytest.fixture
def byte_set(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    tokenizer = save_tokenizer(root / "tokenizer", "bytes", b"")
    writer = ShardWriter(root, "train/a", "a", 2, 700)
    for text in TEXTS:
        ids = [*tokenizer.encode(text), EOS]
        writer.append(Encoded(np.array(ids, "<u2").tobytes(), [len(ids)], [len(text)], [len(text.split())]))
    Manifest(
        name="set",
        complete=True,
        dtype="uint16",
        vocab_size=257,
        eos_id=EOS,
        tokenizer_hash=tokenizer.hash,
        config_hash="",
        config={},
        splits={"train": writer.close(), "held_out": []},
    ).save(root)
    assert verify(root) == []
    return root


def everything(root: Path) -> np.ndarray:
    tokens = TokenSet.open(root)
    return tokens.read(np.array([0]), tokens.manifest.tokens("train"))[0]


@pytest.mark.parametrize("name", ["out.npy", "out.bin", "out.idx"])
def test_what_is_exported_comes_back_with_its_documents(byte_set: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    assert export_tokens(byte_set, "train", target) == len(everything(byte_set))
    file = target.with_suffix(".bin") if name.endswith(".idx") else target
    opened = open_tokens(file, "uint16", EOS)
    assert (np.asarray(opened.tokens) == everything(byte_set)).all()
    manifest = import_tokens(
        [file], tmp_path / "again", tokenizer_directory=byte_set, held_out_fraction=0.0, shard_tokens=500
    )
    assert (everything(tmp_path / "again") == everything(byte_set)).all()
    assert manifest.documents("train") == len(TEXTS)
    assert manifest.text_bytes("train") == sum(map(len, TEXTS))
    assert verify(tmp_path / "again") == []


def test_the_megatron_index_is_as_documented(byte_set: Path, tmp_path: Path) -> None:
    """Magic, version 1, type code 8 (uint16), counts; then int32 sizes, int64 pointers, int64 document bounds."""
    export_tokens(byte_set, "train", tmp_path / "m.idx")
    raw = (tmp_path / "m.idx").read_bytes()
    assert raw[:9] == MAGIC and struct.unpack_from("<QBQQ", raw, 9) == (1, 8, len(TEXTS), len(TEXTS) + 1)
    sizes = np.frombuffer(raw, "<i4", len(TEXTS), 34)
    pointers = np.frombuffer(raw, "<i8", len(TEXTS), 34 + 4 * len(TEXTS))
    assert sizes.tolist() == [len(text) + 1 for text in TEXTS]
    assert pointers.tolist() == (2 * (np.cumsum(sizes) - sizes)).tolist()
    assert len(raw) == 34 + 12 * len(TEXTS) + 8 * (len(TEXTS) + 1)


def test_what_does_not_fit_is_refused(byte_set: Path, tmp_path: Path) -> None:
    cases = {
        "outside the vocabulary of 257": np.array([3, 700, EOS], "<u2"),
        "2-dimensional": np.zeros((2, 2), "<u2"),
        "float64": np.zeros(4),
    }
    for words, array in cases.items():
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(UserError, match=words):
            import_tokens([tmp_path / "x.npy"], tmp_path / "new", tokenizer_directory=byte_set, held_out_fraction=0.0)
    (tmp_path / "y.npy").write_bytes(b"text")
    (tmp_path / "z.bin").write_bytes(b"\0\0")
    (tmp_path / "z.idx").write_bytes(b"something else")
    for name in ("y.npy", "z.bin", "none.npy"):
        with pytest.raises(UserError):
            open_tokens(tmp_path / name, "uint16", EOS)
    with pytest.raises(UserError, match="holds a set already"):
        import_tokens([tmp_path / "x.npy"], byte_set, tokenizer_directory=byte_set, held_out_fraction=0.0)
    with pytest.raises(UserError, match=r"export to .npy, .bin"):
        export_tokens(byte_set, "train", tmp_path / "a.csv")
