"""The configuration that a launcher writes for the ranks: what they read is what was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config.load import dump, load_run, load_written
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError

CONFIG = RunConfig.model_validate(
    {"name": "config", "model": {"size": "12k"}, "data": {}, "batch": {"tokens_per_step": 512}, "steps": 9}
)


def test_a_changed_digit_is_seen_and_the_first_line_can_be_taken_out(tmp_path: Path) -> None:
    path, text = tmp_path / "config.yaml", dump(CONFIG)
    path.write_text(text)
    assert load_written(path) == load_run(path) == CONFIG
    changed = text.replace("steps: 9", "steps: 8")
    path.write_text(changed)
    with pytest.raises(UserError, match="is not as it was written: it is damaged, or was changed by hand"):
        load_written(path)
    path.write_text(changed.partition("\n")[2])
    assert load_written(path).steps == 8


def test_no_truncation_goes_unseen(tmp_path: Path) -> None:
    path, text = tmp_path / "config.yaml", dump(CONFIG)
    for length in range(0, len(text), 7):
        path.write_text(text[:length])
        with pytest.raises(UserError):
            load_written(path)
