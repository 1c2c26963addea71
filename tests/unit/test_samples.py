"""Text of fixed prompts is made beside training, however much it is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from trainer.contract.run_dir import RunDir
from trainer.observe import samples
from trainer.observe.samples import FILE, Samples

TALKS = """
import json, sys
for prompt in json.load(sys.stdin)["prompts"]:
    print(json.dumps({"prompt": prompt, "texts": [prompt * 50_000]}))
"""


def test_more_text_than_a_pipe_holds_comes_without_being_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talks.py").write_text(TALKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(samples, "PROGRAM", "talks")
    made = Samples(RunDir(tmp_path), ["one", "two"])
    made.after([{"event": "saved", "step": 5}])
    deadline = time.monotonic() + 180
    while not (rows := made.rows()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [(row["step"], row["prompt"], len(str(row["text"]))) for row in rows] == [
        (5, "one", 150_000),
        (5, "two", 150_000),
    ]
    assert [json.loads(line)["prompt"] for line in (tmp_path / FILE).read_text().splitlines()] == ["one", "two"]
