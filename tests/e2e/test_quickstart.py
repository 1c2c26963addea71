"""The main job as a newcomer runs it, at a smaller size: text, tokens, ladder, law, report; killed on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.conftest import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the quickstart's sweep, cut down: two sizes a family, few tokens, little text."""
    place = tmp_path_factory.mktemp("quickstart")
    sweep = yaml.safe_load((ROOT / "configs" / "sweep" / "quickstart.yaml").read_text())
    sweep["name"] = "small"
    sweep["run"]["data"] = {"base": "quickstart", "name": "small"}
    sweep["run"]["data"]["sources"] = [{"path": "embedded", "max_bytes": 2_000_000}]
    sweep["run"] |= {"tokens": 82_000, "checkpoint": {"every": "2 steps", "keep_last": 1}}
    sweep["run"]["evaluation"]["tokens"] = 16_000
    sweep["vary"]["model.size"] = ["12k", "40k"]
    sweep["cells"] = sweep["cells"][:1]
    (place / "small.yaml").write_text(yaml.safe_dump(sweep))
    fewer = {**sweep, "vary": {**sweep["vary"], "model.mixer": ["attention", "lstm"]}, "cells": []}
    (place / "fewer.yaml").write_text(yaml.safe_dump(fewer))  # cells of the same names
    return place


def start(
    place: Path, *arguments: str, sweep: str = "small.yaml", runs: str = "runs", stderr: int = subprocess.STDOUT
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "launch", "sweep", "run", sweep, "--runs", runs, *arguments],
        cwd=place, stdout=subprocess.PIPE, stderr=stderr, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ESCALA_CONFIGS": str(ROOT / "configs"), "WANDB_MODE": "offline"},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def losses(place: Path, runs: str) -> dict[str, list[float]]:
    """Return the recorded training losses of every cell."""
    curves = {}
    for metrics in (place / runs / "small" / "cells").glob("*/metrics.jsonl"):
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        curves[metrics.parent.name] = [row["loss"] for row in rows if row["kind"] == "train"]
    return curves


def wait_for(condition, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def ledger_rows(place: Path, runs: str) -> list[dict]:
    path = place / runs / "small" / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finished(place: Path, runs: str) -> dict[str, int]:
    """Return when each cell of the ledger wrote its result."""
    cells = {row["cell"] for row in ledger_rows(place, runs)}
    return {c: (place / runs / "small" / "cells" / c / "result.json").stat().st_mtime_ns for c in cells}


def test_the_main_job(place: Path):
    output = finish(start(place))
    rows = ledger_rows(place, "runs")
    assert len(rows) == 7
    assert {row["kind"] for row in rows} == {"transformer", "lstm", "gated_conv"}
    assert re.search(r"body parameters and \S+ tokens \w+ is\s+best: perplexity", output)
    assert all(row["bits_per_byte"] and row["perplexity"] > 1 for row in rows)
    assert "layout check" in output
    assert "NOT within" not in output
    report = place / "runs" / "small" / "report" / "report.html"
    text = report.read_text()
    assert "data:image/png;base64," in text
    assert "http://" not in text
    assert 'src="http' not in text
    assert list(report.parent.glob("*.png"))
    assert list((place / "runs/small/cells").glob("*/wandb*")) == [], "without credentials the record waits for a sync"
    assert (report.parent / "perplexity_against_parameters.png").exists()


def test_again_it_does_nothing_but_reprint(place: Path):
    before = {p: p.stat().st_mtime_ns for p in (place / "runs").rglob("metrics.jsonl")}
    ledger = (place / "runs/small/ledger.jsonl").read_bytes()
    output = finish(start(place))
    assert "nothing to train" in output
    assert {p: p.stat().st_mtime_ns for p in (place / "runs").rglob("metrics.jsonl")} == before
    assert (place / "runs/small/ledger.jsonl").read_bytes() == ledger
    told = json.loads(finish(start(place, "--json", stderr=subprocess.DEVNULL)))
    assert (told["started"], told["done"]) == ([], 8)
    assert (place / told["report"]["html"]).exists() and (place / told["ledger"]).exists()


def test_interrupted_by_ctrl_c_and_by_kill_9_it_continues_to_the_same_losses(place: Path):
    cells = place / "interrupted" / "small" / "cells"
    stamps: dict[str, int] = {}
    for number, nth in ((signal.SIGINT, 1), (signal.SIGKILL, 2)):
        process = start(place, sweep="fewer.yaml", runs="interrupted")
        wait_for(lambda nth=nth: ledger_rows(place, "interrupted") and len(list(cells.glob("*40k*/latest"))) >= nth)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
        assert process.returncode != 0, said
        psutil.wait_procs(family, timeout=60)
        assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert stamps.items() <= finished(place, "interrupted").items()
        stamps = finished(place, "interrupted")
    finish(start(place, sweep="fewer.yaml", runs="interrupted"))
    assert stamps and stamps.items() <= finished(place, "interrupted").items()
    found, undisturbed = losses(place, "interrupted"), losses(place, "runs")
    assert len(found) == 5 and found == {cell: undisturbed[cell] for cell in found}
    resumed = [p.read_text().count('"resumed"') for p in cells.glob("*/events.jsonl")]
    assert sum(resumed) >= 2, "a cell went on after each"
