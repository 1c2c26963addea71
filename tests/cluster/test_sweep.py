"""A sweep on a real Slurm: one array, a cancelled cell sent again by `resume`, and the ledger and report at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from launch.cluster import registry
from launch.show.console import make_console
from launch.sweep.execute.status import sweep_status
from launch.sweep.execute.story import Wish, resume_sweep, submit_sweep
from tests.cluster.slurm import Slurm, wait_until
from tests.cluster.test_slurm import ROOT

RUN = {
    "model": {"n_layers": 1, "n_heads": 2, "context_length": 64},
    "batch": {"tokens_per_step": 256},
    "steps": 20,
    "evaluation": {"tokens": "2k"},
    "tracking": {"wandb": "disabled"},
    "device": "cpu",
}


def test_an_array_sweep_goes_on_where_it_was_and_ends_in_a_report(
    slurm: Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {
        "name": "small",
        "root": str(tmp_path / "data"),
        "sources": [{"path": "embedded", "max_bytes": "400k"}],
        "tokenizer": {"vocab_size": 512, "sample_bytes": "400k"},
        "held_out_fraction": 0.2,
    }
    sweep = {"name": "s", "ranks": 2, "run": {**RUN, "data": data}, "vary": {"model.d_model": [16, 32, 48]}}
    where = {"backend": "slurm", "ranks_per_node": 2, "python": sys.executable, "directory": str(ROOT)}
    config, cluster, runs = tmp_path / "s.yaml", tmp_path / "cluster.yaml", tmp_path / "runs"
    config.write_text(yaml.safe_dump(sweep))
    cluster.write_text(yaml.safe_dump({**where, "environment": {"OMP_NUM_THREADS": "1"}}))

    def states() -> list[str]:
        return [cell["state"] for cell in sweep_status(config, (), runs)["cells"]]

    submit_sweep(Wish(config, (), runs, at_most=1), str(cluster), make_console())
    assert len({row.job.split("_")[0] for row in registry.find(runs)}) == 1, "one array"
    last = next(row.job for row in registry.find(runs) if row.job.endswith("_2"))
    slurm.call("scancel", last)
    wait_until(lambda: states() == ["done", "done", "cancelled"], 400, "two cells")
    resume_sweep(Wish(config, (), runs), make_console())
    assert "submitted 1 cells" in capsys.readouterr().out
    wait_until(lambda: states() == ["done"] * 3, 240, "the third")
    resume_sweep(Wish(config, (), runs), make_console())
    rows = [json.loads(line) for line in (runs / "s" / "ledger.jsonl").read_text().splitlines()]
    assert len({row["cell"] for row in rows}) == 3
    assert (runs / "s" / "report" / "report.html").exists()
