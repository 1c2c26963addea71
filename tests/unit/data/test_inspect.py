"""Looking into sets, down to the smallest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.data.builders import write_shards
from trainer.data.store.inspect import samples
from trainer.data.store.manifest import Manifest
from trainer.data.tokenize.tokenizer import Bytes, save_tokenizer

TEXTS = {"none": [], "empty": [""], "one": ["a"], "short": ["tiny", "ö"], "long": ["x" * 500]}


@pytest.mark.parametrize("what", TEXTS)
def test_a_set_of_any_size_shows_what_it_has(tmp_path: Path, what: str) -> None:
    tokenizer = save_tokenizer(tmp_path / "tokenizer", "bytes", b"")
    assert tokenizer.eos_id == Bytes.eos_id
    shards = write_shards(tmp_path, "train", "a", [tokenizer.encode(t) for t in TEXTS[what]], 100, "uint16", 256)
    Manifest(
        name="made", complete=True, dtype="uint16", vocab_size=257, eos_id=256, tokenizer_hash=tokenizer.hash,
        config_hash="", config={}, splits={"train": shards},
    ).save(tmp_path)  # fmt: skip
    found = samples(tmp_path, "train", count=3, length=64, seed=0)
    shown = "".join(TEXTS[what])
    if len(shown) < 64:
        assert [sample["text"] for sample in found] == ([shown] if shown else [])
    else:
        assert len(found) == 3 and all(sample["text"] == "x" * 64 for sample in found)
