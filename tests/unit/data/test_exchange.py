"""Token files of others: what is exported comes back, and what does not fit is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.contract.errors import UserError
from trainer.data.store.exchange import export_tokens, import_tokens, source_tags
from trainer.data.store.manifest import Manifest
from trainer.data.store.shard_writer import Encoded, ShardWriter
from trainer.data.store.token_files import HEADER, MAGIC, open_tokens
from trainer.data.store.token_set import TokenSet
from trainer.data.store.verify import verify
from trainer.data.tokenize.tokenizer import Bytes, save_tokenizer

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
    assert export_tokens(byte_set, "train", target) == (len(everything(byte_set)), "uint16")
    file = target.with_suffix(".bin") if name.endswith(".idx") else target
    opened = open_tokens(file, "uint16", Bytes())
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
            open_tokens(tmp_path / name, "uint16", Bytes())
    with pytest.raises(UserError, match="holds a set already"):
        import_tokens([tmp_path / "x.npy"], byte_set, tokenizer_directory=byte_set, held_out_fraction=0.0)
    with pytest.raises(UserError, match=r"export to .npy, .bin"):
        export_tokens(byte_set, "train", tmp_path / "a.csv")


def imported(byte_set: Path, target: Path, *files: Path, **options: Any) -> Manifest:
    return import_tokens(list(files), target, tokenizer_directory=byte_set, **{"held_out_fraction": 0.0, **options})


def test_files_of_one_name_stay_apart(byte_set: Path, tmp_path: Path) -> None:
    names = ["a/train.npy", "b/train.npy", "c/train-2.npy", "d/we[1]rd name.npy"]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir()
        np.save(tmp_path / name, np.array([number, number, EOS], "<u2"))
    files = [tmp_path / name for name in names]
    manifest = imported(byte_set, tmp_path / "new", *files)
    assert manifest.sources("train") == ["train", "train-2", "train-2-2", "we-1-rd-name"]
    assert everything(tmp_path / "new").tolist() == [t for n in range(4) for t in (n, n, EOS)]
    assert verify(tmp_path / "new") == []
    with pytest.raises(UserError, match="given twice"):
        source_tags([files[0], tmp_path / "b" / ".." / "a" / "train.npy"])


def test_a_file_of_another_width_is_noticed(byte_set: Path, tmp_path: Path) -> None:
    tokens = everything(byte_set)
    tokens.astype("<u4").tofile(tmp_path / "wide.bin")
    tokens.astype("<u2").tofile(tmp_path / "narrow.bin")
    with pytest.raises(UserError, match=r"wide.bin: every second uint16 .* add --dtype uint32"):
        imported(byte_set, tmp_path / "new", tmp_path / "wide.bin")
    with pytest.raises(UserError, match=r"narrow.bin: read as uint32 .* leave --dtype uint32 out"):
        imported(byte_set, tmp_path / "new", tmp_path / "narrow.bin", raw_dtype="uint32")
    imported(byte_set, tmp_path / "new", tmp_path / "wide.bin", raw_dtype="uint32")  # as advised
    assert (everything(tmp_path / "new") == tokens).all()
    np.zeros(64, "<u2").tofile(tmp_path / "zeros.bin")  # no id tells: taken as it is said to be
    assert len(open_tokens(tmp_path / "zeros.bin", "uint16", Bytes()).tokens) == 64


@pytest.mark.parametrize("vocab_size", [70_000, 200_000])
def test_wide_ids_with_a_small_upper_half_are_noticed_too(tmp_path: Path, vocab_size: int) -> None:
    tokenizer = Bytes()
    tokenizer.vocab_size = vocab_size
    np.random.default_rng(0).integers(0, vocab_size, 999).astype("<u4").tofile(tmp_path / "w.bin")
    with pytest.raises(UserError, match="add --dtype uint32"):
        open_tokens(tmp_path / "w.bin", "uint16", tokenizer)
    np.random.default_rng(0).integers(0, 65_536, 999).astype("<u2").tofile(tmp_path / "n.bin")
    assert len(open_tokens(tmp_path / "n.bin", "uint16", tokenizer).tokens) == 999


def test_cut_and_empty_files_are_refused(byte_set: Path, tmp_path: Path) -> None:
    for name in ("x.npy", "x.bin", "m.idx"):
        export_tokens(byte_set, "train", tmp_path / name)
    for name in ("x.npy", "x.bin", "m.bin", "m.idx"):
        whole = (tmp_path / name).read_bytes()
        file = tmp_path / ("m.bin" if name == "m.idx" else name)
        for length in (0, 1, 8, 20, 33, 35, 100, len(whole) // 2 * 2 - 1, len(whole) - 1):
            if name == "x.bin" and length % 2 == 0 and length:
                continue  # raw tokens say nothing of their number
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(UserError):
                open_tokens(file, "uint16", Bytes())
        (tmp_path / name).write_bytes(whole)
        assert len(open_tokens(file, "uint16", Bytes()).tokens) == len(everything(byte_set))
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    (tmp_path / "two.npz").rename(tmp_path / "two.npy")
    np.save(tmp_path / "none.npy", np.zeros(0, "<u2"))
    for name in ("two.npy", "none.npy", "m.idx", ""):
        with pytest.raises(UserError):
            open_tokens(tmp_path / name, "uint16", Bytes())


@given(at=st.integers(0, 1499), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_of_an_index_is_refused_or_means_nothing(byte_set: Path, at: int, value: int) -> None:
    folder = byte_set.parent
    if not (folder / "m.idx").exists():
        export_tokens(byte_set, "train", folder / "m.idx")
        (folder / "whole").write_bytes((folder / "m.idx").read_bytes())
    index = bytearray((folder / "whole").read_bytes())
    index[at % len(index)] = value
    (folder / "m.idx").write_bytes(index)
    try:
        opened = open_tokens(folder / "m.bin", "uint16", Bytes())
    except UserError:
        return
    if opened.tokens.itemsize == 2:  # a type code of as wide integers cannot be told
        assert (np.asarray(opened.tokens) == everything(byte_set)).all()
        assert opened.ends[-1] == len(opened.tokens)


def test_a_megatron_document_ends_where_its_tokens_say_and_where_its_index_says(byte_set: Path, tmp_path: Path) -> None:
    tokens = np.array([1, 2, EOS, 3, 4, 5, 6], "<u2")
    sizes, bounds = [3, 2, 0, 2], [0, 1, 3, 4]  # the second document has an empty sequence
    (tmp_path / "m.bin").write_bytes(tokens.tobytes())
    starts = np.cumsum([0, *sizes[:-1]]) * 2
    (tmp_path / "m.idx").write_bytes(
        MAGIC
        + struct.pack(HEADER, 1, 8, len(sizes), len(bounds))
        + np.array(sizes, "<i4").tobytes()
        + starts.astype("<i8").tobytes()
        + np.array(bounds, "<i8").tobytes()
    )
    manifest = imported(byte_set, tmp_path / "new", tmp_path / "m.bin")
    assert everything(tmp_path / "new").tolist() == [1, 2, EOS, 3, 4, EOS, 5, 6, EOS]
    assert manifest.documents("train") == 3
    assert manifest.report["m"] == {"imported_from": "m.bin", "tokens": 7, "ends_added": 2}


def test_an_import_that_fails_leaves_nothing(byte_set: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.array([*b"text", EOS] * 500, "<u2"))
    np.save(tmp_path / "bad.npy", np.array([1, 700, EOS], "<u2"))
    (tmp_path / "there").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    for options in ({}, {"held_out_fraction": 0.999999}):
        files = [tmp_path / "good.npy", tmp_path / "bad.npy"][: 1 if options else 2]
        with pytest.raises(UserError, match=r"outside the vocabulary of 257|lower --held-out-fraction"):
            imported(byte_set, tmp_path / "new", *files, shard_tokens=1024, **options)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    imported(byte_set, tmp_path / "there", tmp_path / "good.npy")  # an empty directory will do
    with pytest.raises(UserError, match="holds a set already"):
        imported(byte_set, tmp_path / "there", tmp_path / "good.npy")
    with pytest.raises(UserError, match="is no empty directory"):
        imported(byte_set, tmp_path, tmp_path / "good.npy")


def test_a_raw_export_is_not_put_beside_an_index(byte_set: Path, tmp_path: Path) -> None:
    export_tokens(byte_set, "train", tmp_path / "m.idx")
    with pytest.raises(UserError, match="would be taken for its tokens"):
        export_tokens(byte_set, "train", tmp_path / "m.bin")
    assert not list(tmp_path.glob(".*"))
