"""The entropy of tokens by their frequencies: against scipy, from a part of a large set, and in prepared sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy

from tests.unit.data.builders import EOS, write_set
from trainer.config.data import DataConfig
from trainer.data.prepare.prepare import prepare
from trainer.data.store import unigram
from trainer.data.store.exchange import import_tokens
from trainer.data.store.manifest import Manifest


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_it_is_that_of_the_counts(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    documents = [random.zipf(1.3, 50).clip(1, 998).tolist() for _ in range(200)]
    made = write_set(tmp_path, {"a": documents[:150], "b": documents[150:]}, dtype=dtype)
    counts = np.bincount([token for document in documents for token in [*document, EOS]])
    monkeypatch.setattr(unigram, "STRETCH", 100)
    found = unigram.unigram_entropy(tmp_path, made.splits["train"], dtype, made.vocab_size)
    assert found == pytest.approx(entropy(counts), rel=1e-12)
    monkeypatch.setattr(unigram, "COUNTED", 5000)
    assert unigram.unigram_entropy(tmp_path, made.splits["train"], dtype, made.vocab_size) == pytest.approx(found, 0.05)


def test_prepared_and_imported_sets_say_it_and_older_ones_are_read(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("".join(f"{k % 7} line {k}\n" for k in range(300)))
    values = {"name": "s", "root": str(tmp_path), "tokenizer": {"kind": "bytes"}, "held_out_fraction": 0.1}
    sources = [{"path": str(text), "documents_are": "lines"}]
    root = prepare(DataConfig.model_validate({**values, "sources": sources}), workers=1)
    shard = Manifest.open(root).splits["train"][0]
    tokens = np.fromfile(root / f"{shard.file}.bin", dtype="<u2")
    expected = pytest.approx(entropy(np.bincount(tokens)), rel=1e-12)
    assert Manifest.open(root).unigram_entropy == expected
    raw = tmp_path / "raw.bin"
    tokens.tofile(raw)
    imported = import_tokens([raw], tmp_path / "imported", tokenizer_directory=root, held_out_fraction=0.0)
    assert imported.unigram_entropy == expected
    old = json.loads((root / "manifest.json").read_text())
    del old["unigram_entropy"]
    (root / "manifest.json").write_text(json.dumps(old))
    assert Manifest.open(root).unigram_entropy is None
