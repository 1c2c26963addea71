"""The data section: every shipped file is valid, and mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.config.base import parse_section
from trainer.config.data import DataConfig
from trainer.contract.errors import UserError
from trainer.data.prepare.prepare import read_config

CONFIGS = sorted((Path(__file__).resolve().parents[3] / "configs" / "data").glob("*.yaml"))


def parse(**values: Any) -> DataConfig:
    return parse_section(DataConfig, values, "test")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_file_is_valid_and_named_after_itself_or_its_data(path: Path) -> None:
    section = parse(**yaml.safe_load(path.read_text()))
    assert section.content_hash() == parse(**section.model_dump(mode="json")).content_hash()


def test_only_what_determines_the_tokens_determines_the_hash() -> None:
    two = [{"name": "a", "path": "a.jsonl", "weight": 1}, {"name": "b", "path": "b.jsonl", "weight": 1}]
    base = parse(sources=two)
    heavier = [{**two[0], "weight": 3}, two[1]]
    same = [
        parse(sources=heavier, stages=[{"from_tokens": "1M", "weights": {"a": 1}}]),
        parse(sources=two, name="other", root="/elsewhere", packing="best_fit", shuffle_window="1M", repeat=False),
        parse(sources=[{**two[0], "retries": 9, "stall_seconds": 5}, two[1]]),
    ]
    assert {section.content_hash() for section in same} == {base.content_hash()}
    for change in (
        {"sources": two[::-1]},
        {"sources": two, "tokenizer": {"vocab_size": 5000}},
        {"sources": two, "held_out_fraction": 0.02},
        {"sources": two, "shard_tokens": "1M"},
        {"sources": [{**two[0], "min_chars": 5}, two[1]]},
    ):
        assert parse(**change).content_hash() != base.content_hash()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sources": [{"path": "a", "weight": 1}, {"path": "b"}]}, "either every source has a 'weight' or none; 'b'"),
        ({"sources": [{"path": "x/a.jsonl"}, {"path": "y/a.jsonl"}]}, "two sources are called 'a'"),
        ({"sources": []}, "at least 1"),
        ({"name": "a/b"}, "it cannot contain '/'"),
        ({"held_out_sets": [{"name": "train", "path": "a"}]}, "cannot be called 'train'"),
        ({"stages": [{"from_tokens": 5, "weights": {"embedded": 1}}]}, "the sources have none"),
        (
            {"sources": [{"path": "a", "weight": 1}], "stages": [{"from_tokens": 5, "weights": {"c": 1}}]},
            "names no source: 'c'",
        ),
        ({"tokenizer": {"kind": "huggingface"}}, "needs a 'path'"),
        ({"tokenizer": {"kind": "bytes", "eos": "</s>"}}, "'eos' is for tokenizers of kind 'huggingface'"),
        ({"tokenizer": {"vocab_size": 100}}, "vocab_size must be over 258"),
        ({"tokenizer": {"vocab_size": "2B"}}, "at most 1048576"),
        ({"sources": [{"matching": "("}]}, "not a regular expression"),
        ({"sourcs": []}, r"unknown key 'sourcs' \(did you mean 'sources'"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse(**values)


@pytest.mark.parametrize(
    ("path", "tag"),
    [
        ("embedded", "embedded"),
        ("corpus/books-*.jsonl.gz", "books"),
        ("s3://bucket/web/*.parquet", "source"),
        ("HuggingFaceFW/fineweb-edu", "fineweb-edu"),
    ],
)
def test_a_source_has_a_name(path: str, tag: str) -> None:
    assert parse(sources=[{"path": path}]).sources[0].tag == tag


@pytest.mark.parametrize("content", [b"data: {name: 2024-13-45}", b"name: \xff", b"[1]", b"a: [", b"[" * 5000])
def test_a_damaged_file_of_the_preparation_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.yaml"):
        read_config(path)
