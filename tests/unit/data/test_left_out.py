"""Sources of a set that are too short to be trained on are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.builders import open_train, random_docs, write_set
from trainer.data.batches import Batches
from trainer.session import _tell_sources_left_out


class Events:
    """As much of a record as is written to."""

    active = True

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def event(self, kind: str, **values: Any) -> None:
        self.rows.append({"event": kind, **values})


def test_a_source_without_one_whole_sequence_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path, {"long": random_docs(1, 40), "short": [[1, 2, 3]], "enough": [list(range(16))]})
    batches = Batches(open_train(tmp_path), context_length=16, sequences_per_step=2, micro_batch=2, seed=1)
    events = Events()
    _tell_sources_left_out(batches, 16, events)  # type: ignore[arg-type]
    batches.close()
    assert events.rows == [{"event": "source_left_out", "source": "short", "tokens": 4}]
    assert capsys.readouterr().err == "warning: short is not trained on: its 4 tokens are fewer than one sequence\n"
