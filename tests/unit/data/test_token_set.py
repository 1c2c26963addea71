"""Reading shards: the right tokens over every border, and damage named before its tokens are used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.data.builders import EOS, open_train, random_docs, stream, write_set
from trainer.contract.errors import UserError
from trainer.data.store import shard_reader as module
from trainer.data.store.manifest import BLOCK_BYTES, FORMAT, Manifest
from trainer.data.store.token_set import TokenSet


@given(seed=st.integers(0, 2**32), count=st.integers(1, 80), shard=st.integers(1, 400), length=st.integers(1, 90))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_samples_are_the_stream_cut_into_pieces(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, shard: int, length: int
) -> None:
    """For any sizes of documents, shards and samples, with the numbers of documents beside them."""
    root = tmp_path_factory.mktemp("set")
    docs = random_docs(seed, count)
    write_set(root, {"a": docs}, shard_tokens=shard)
    tokens, expected = open_train(root), stream(docs)
    n = tokens.num_samples(length)
    assert n == max(0, (len(expected) - 1) // length)
    ids = np.random.default_rng(seed).permutation(n)
    rows = tokens.gather(ids, length)
    assert (rows == expected[ids[:, None] * length + np.arange(length + 1)]).all()
    begun = rows[:, :-1] == EOS  # an end token belongs to the document that it begins
    begun[:, 0] = False
    expected_documents = np.cumsum(begun, axis=1)
    assert (tokens.documents(ids, length) == expected_documents).all()


def test_sources_are_pools_that_samples_do_not_cross(tmp_path: Path) -> None:
    a, b = random_docs(1, 50), random_docs(2, 70)
    manifest = write_set(tmp_path, {"a": a, "b": b}, shard_tokens=200)
    mixed = [x for pair in zip(manifest.shards("train:a"), manifest.shards("train:b"), strict=False) for x in pair]
    rest = [s for s in manifest.shards("train") if s not in mixed]
    manifest.model_copy(update={"splits": {"train": mixed + rest, "held_out": []}}).save(tmp_path)
    tokens = open_train(tmp_path)
    pools = tokens.pool_samples(16)
    for number, docs in enumerate((a, b)):
        first = int(pools[:number].sum())
        rows = tokens.gather(np.arange(first, first + pools[number]), 16)[:, :-1].ravel()
        assert (rows == stream(docs)[: len(rows)]).all()


def test_more_shards_than_may_be_open(tmp_path: Path) -> None:
    docs = random_docs(3, 60)
    manifest = write_set(tmp_path, {"a": docs}, shard_tokens=1)
    tokens = TokenSet(manifest, "train", lambda file: tmp_path / file, most_open=3)
    rows = tokens.gather(np.arange(tokens.num_samples(8)), 8)[:, :-1].ravel()
    assert (rows == stream(docs)[: len(rows)]).all() and len(tokens._open) <= 3


@pytest.fixture
def big_set(tmp_path: Path) -> Path:
    """One shard of three blocks."""
    rng = np.random.default_rng(0)
    write_set(tmp_path, {"a": [rng.integers(0, 900, size=BLOCK_BYTES).tolist()]}, shard_tokens=10**9)
    return tmp_path


def test_one_flipped_byte_is_named_before_its_tokens_are_used(big_set: Path) -> None:
    path = big_set / "train/a-00000.bin"
    content = bytearray(path.read_bytes())
    place = BLOCK_BYTES + 100
    content[place] ^= 1
    path.write_bytes(content)
    tokens = open_train(big_set)
    length = 64
    clean = tokens.gather(np.arange(100), length)  # other blocks are sound
    assert (clean[:, 0] == np.frombuffer(content, "<u2")[: 100 * length : length]).all()
    with pytest.raises(UserError, match=rf"a-00000.bin is damaged: bytes {BLOCK_BYTES} to {2 * BLOCK_BYTES - 1}"):
        tokens.gather(np.array([place // 2 // length]), length)
    with pytest.raises(UserError, match="damaged"):  # asking again does not help
        tokens.gather(np.array([place // 2 // length]), length)


def test_a_long_sample_has_all_its_blocks_checked(big_set: Path) -> None:
    path = big_set / "train/a-00000.bin"
    content = bytearray(path.read_bytes())
    content[BLOCK_BYTES + 5] ^= 8  # in the middle block of a sample over three
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        open_train(big_set).read(np.array([BLOCK_BYTES // 2 - 10]), BLOCK_BYTES // 2 + 11)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-2]), "has .* bytes, the manifest says"),
        (lambda p: p.unlink(), "is missing"),
        (lambda p: p.with_suffix(".xxh").write_bytes(b"12345678"), "missing or damaged"),
    ],
)
def test_truncated_missing_and_unchecked_shards_are_refused(big_set: Path, harm: object, words: str) -> None:
    harm(big_set / "train/a-00000.bin")  # type: ignore[operator]
    with pytest.raises(UserError, match=words):
        open_train(big_set).gather(np.array([0]), 16)


def test_blocks_are_checked_once(big_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = xxhash.xxh3_64_intdigest
    monkeypatch.setattr(module.xxhash, "xxh3_64_intdigest", lambda content: calls.append(1) or real(content))
    tokens = open_train(big_set)
    for _ in range(3):
        tokens.gather(np.arange(tokens.num_samples(64)), 64)
    assert len(calls) == 3  # the last sample ends in the third block; each once


def test_a_manifest_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": random_docs(0, 3)})
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    with pytest.raises(UserError, match=f"has format {FORMAT + 1}, this Escala reads up to {FORMAT}"):
        Manifest.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest.json is not (JSON|a manifest)"):
        Manifest.open(tmp_path)


def test_no_set_and_no_such_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prepared data"):
        TokenSet.open(tmp_path)
    write_set(tmp_path, {"a": random_docs(0, 3)})
    with pytest.raises(UserError, match="no split 'trian' \\(did you mean 'train'"):
        TokenSet.open(tmp_path, "trian")
    with pytest.raises(UserError, match="no source 'b'"):
        TokenSet.open(tmp_path, "train:b")


def test_the_hash_names_content_and_order(tmp_path: Path) -> None:
    docs = random_docs(5, 40)
    one = write_set(tmp_path / "1", {"a": docs}).data_hash
    assert write_set(tmp_path / "2", {"a": docs}).data_hash == one
    assert write_set(tmp_path / "3", {"a": docs[::-1]}).data_hash != one
    assert write_set(tmp_path / "4", {"a": docs}, dtype="uint32").data_hash != one
