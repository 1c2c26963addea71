"""A run keeps to the shards that it began with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.data.builders import random_docs, write_set
from trainer.contract.errors import UserError
from trainer.data.store.manifest import Manifest
from trainer.data.store.pinned import pin, pinned


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("set")
    return write_set(root, {"a": random_docs(1, 200)}, shard_tokens=1000, held_out=random_docs(2, 100))


def first(manifest: Manifest, shards: int) -> Manifest:
    return manifest.prefix({"train": shards, "held_out": 1})


def test_whoever_comes_first_decides(whole: Manifest, tmp_path: Path) -> None:
    note = tmp_path / "data.json"
    begun = pin(note, first(whole, 2), "published")
    assert len(begun.shards("train")) == 2
    for later in (first(whole, 3), whole):
        for begin in ("published", "complete"):
            assert pin(note, later, begin).data_hash == begun.data_hash
        assert pinned(note, later).data_hash == begun.data_hash
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_a_complete_set_is_pinned_as_it_is(whole: Manifest, tmp_path: Path) -> None:
    assert pin(tmp_path / "data.json", whole, "complete") == whole
    assert pinned(tmp_path / "none.json", whole) == whole


def test_an_incomplete_set_is_refused_unless_asked_for(whole: Manifest, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"are still being prepared, [\d,]+ training tokens so far.*data.begin=published"
    ):
        pin(tmp_path / "data.json", first(whole, 2), "complete")
    assert not list(tmp_path.iterdir())


def test_a_set_that_was_made_anew_is_refused(whole: Manifest, tmp_path: Path) -> None:
    note = tmp_path / "data.json"
    pin(note, first(whole, 2), "published")
    other = write_set(tmp_path / "other", {"a": random_docs(7, 200)}, shard_tokens=1000, held_out=random_docs(2, 100))
    with pytest.raises(UserError, match="this run began with other data"):
        pin(note, other, "complete")
    with pytest.raises(UserError, match="has 1 shards, not 2"):
        pinned(note, first(whole, 1))
