"""What a tokenizer loses is counted on a sample, said at preparation with an example, and kept in the manifest."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data import tokenizer_files as files
from trainer.config.base import parse_section
from trainer.config.data import DataConfig
from trainer.contract.errors import UserError
from trainer.data.prepare.prepare import prepare
from trainer.data.prepare.progress import Progress
from trainer.data.store.manifest import Manifest
from trainer.data.tokenize.huggingface_tokenizer import HuggingFace
from trainer.data.tokenize.round_trip import around_difference, measure
from trainer.data.tokenize.tokenizer import Bytes

TEXTS = ["the model", "a\ttab", "two\nlines", "Größe", "THE", "12 345", "", " the", "the "]


@pytest.mark.parametrize(
    ("kind", "altered"),
    [
        ("byte_level", []),
        ("word_level", ["a\ttab", "two\nlines", "THE", "12 345", " the", "the "]),
        ("word_piece", ["a\ttab", "two\nlines", "Größe", "THE", " the", "the "]),
    ],
)
def test_altered_documents_are_counted(kind: str, altered: list[str]) -> None:
    tokenizer = HuggingFace(files.content(files.ALL[kind]()), None)
    found = measure(tokenizer, TEXTS)
    assert (found.documents, found.altered) == (len(TEXTS), len(altered))
    assert found.text == (altered[0] if altered else "")
    assert [text for text in TEXTS if measure(tokenizer, [text]).altered] == altered


def test_the_example_shows_the_first_difference() -> None:
    left, right = "0123456789abcdef", "fedcba987654321"
    assert around_difference(f"....{left}X{right}....", f"....{left}Y{right}....") == (
        f"{left}X{right}",
        f"{left}Y{right}",
    )
    assert around_difference("end.\n", "end.") == ("end.\n", "end.")
    assert measure(Bytes(), TEXTS).altered == 0


@pytest.mark.parametrize("kind", ["byte_level", "word_level", "bpe"])
def test_preparation_says_what_is_lost(tmp_path: Path, kind: str) -> None:
    texts = ["the model\n" * 3, *files.sample(60)]
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": f"{name} {t}"}) + "\n" for t in texts))
    (tmp_path / "tokenizer.json").write_bytes(files.content(files.ALL.get(kind, files.byte_level)()))
    tokenizer: dict[str, Any] = {"kind": "huggingface", "path": str(tmp_path / "tokenizer.json")}
    if kind == "bpe":
        tokenizer = {"kind": "bpe", "vocab_size": 320}
    values = {
        "name": "made",
        "root": str(tmp_path / "data"),
        "sources": [{"path": str(tmp_path / f"{name}.jsonl"), "name": name} for name in ("a", "b")],
        "tokenizer": tokenizer,
        "held_out_fraction": 0.2,
    }
    progress = Progress(out=io.StringIO())
    manifest = Manifest.open(prepare(parse_section(DataConfig, values, "test"), workers=1, progress=progress))
    said = progress.out.getvalue()  # type: ignore[attr-defined]
    found = [manifest.report[name]["round_trip"] for name in ("a", "b")]
    assert [measured["documents"] for measured in found] == [manifest.documents(f"train:{name}") for name in ("a", "b")]
    assert all(measured["altered"] == (measured["documents"] if kind == "word_level" else 0) for measured in found)
    n, m = (measured["altered"] for measured in found)
    lossy = kind == "word_level"
    assert (
        f"warning: the tokenizer alters {n} of {n} sampled documents of source 'a' (100%): for instance" in said
    ) == lossy
    assert (f"the tokenizer alters {n + m} of {n + m} sampled documents" in said.splitlines()[-1]) == lossy
    assert ("alters" in said) == lossy


def test_another_end_token_can_be_tried_under_the_same_name(tmp_path: Path) -> None:
    """What a refusal advises must not be refused because of what the refused attempt left."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"the unseen{n}"}) + "\n" for n in range(50)))
    (tmp_path / "tokenizer.json").write_bytes(files.content(files.word_level()))
    tokenizer = {"kind": "huggingface", "path": str(tmp_path / "tokenizer.json"), "eos": "<unk>"}
    values = {
        "name": "made",
        "root": str(tmp_path / "data"),
        "sources": [{"path": str(tmp_path / "a.jsonl")}],
        "tokenizer": tokenizer,
        "held_out_fraction": 0.2,
    }
    quiet = Progress(out=io.StringIO())
    with pytest.raises(UserError, match=r"writes 'unseen\d+' as '<unk>', .* name another end token"):
        prepare(parse_section(DataConfig, values, "test"), workers=1, progress=quiet)
    values["tokenizer"] = {**tokenizer, "eos": "<eos>"}
    manifest = Manifest.open(prepare(parse_section(DataConfig, values, "test"), workers=1, progress=quiet))
    assert manifest.report["a"]["round_trip"]["altered"] == manifest.documents("train")
