"""The tokenizer that a run carries: copied once, the right one, and never in the way of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.config.data import DataConfig
from trainer.contract.errors import UserError
from trainer.data.tokenize.run_tokenizer import keep_tokenizer, tokenizer_of_run
from trainer.data.tokenize.tokenizer import Bytes, save_tokenizer

HASH = Bytes.hash


@pytest.fixture(params=["path", "url"])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> DataConfig:
    save_tokenizer(tmp_path / "data" / "set" / "tokenizer", "bytes", b"")
    root = tmp_path / "data"
    return DataConfig(name="set", root=str(root) if request.param == "path" else f"file://{root}")


def test_it_is_copied_once_and_again_where_it_is_torn(tmp_path: Path, data: DataConfig) -> None:
    target = tmp_path / "run" / "tokenizer"
    assert keep_tokenizer(target, data, HASH)
    before = (target / "meta.json").stat().st_mtime_ns
    assert keep_tokenizer(target, data, HASH) and (target / "meta.json").stat().st_mtime_ns == before
    (target / "meta.json").write_text('{"kind": "by')
    assert keep_tokenizer(target, data, HASH)
    assert tokenizer_of_run(target, data, HASH).hash == HASH
    assert [path.name for path in target.iterdir()] == ["meta.json"]


def test_another_tokenizer_than_the_tokens_is_refused(tmp_path: Path, data: DataConfig) -> None:
    with pytest.raises(UserError, match=rf"its hash is {HASH}, the tokens were made with 0123"):
        keep_tokenizer(tmp_path / "run" / "tokenizer", data, "0123")
    assert keep_tokenizer(tmp_path / "run" / "tokenizer", data, HASH)
    with pytest.raises(UserError, match=rf"its hash is {HASH}, the model was trained with 0123"):
        tokenizer_of_run(tmp_path / "run" / "tokenizer", data, "0123")


def test_a_set_without_a_tokenizer_is_trained_on(
    tmp_path: Path, data: DataConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data/set/tokenizer/meta.json").unlink()
    assert not keep_tokenizer(tmp_path / "run" / "tokenizer", data, HASH)
    assert "has no tokenizer/meta.json: no bits per byte" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=r"there is no tokenizer in .*: copy the directory tokenizer of its data set to"
    ):
        tokenizer_of_run(tmp_path / "run" / "tokenizer", data, HASH)


def test_a_directory_that_takes_no_file_ends_no_training(
    tmp_path: Path, data: DataConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer").write_text("a file in its place")
    assert not keep_tokenizer(tmp_path / "run" / "tokenizer", data, HASH)
    assert "could not be copied" in capsys.readouterr().err


def test_a_note_leads_to_no_file_outside(tmp_path: Path, data: DataConfig) -> None:
    (tmp_path / "secret").write_text("x")
    note = tmp_path / "data/set/tokenizer/meta.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "file": "../../../secret"}))
    with pytest.raises(UserError, match="names a file outside of its directory"):
        keep_tokenizer(tmp_path / "run" / "tokenizer", data, HASH)
