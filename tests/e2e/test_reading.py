"""Reading reads: no command that asks leaves a trace, in the runs, in the data, or in the home of whoever asks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from launch.cli import escala as commands
from launch.cli import main
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import load_sweep
from tests.e2e.ranks import configuration
from tests.e2e.test_readme import write_ledger
from tests.launch.test_sweep_submit import Stub
from trainer.contract.run_dir import RunDir, Status

pytestmark = pytest.mark.e2e

# What each command does to what it is pointed at. A new command says which.
READ = {
    "render", "jobs", "logs", "clusters", "doctor", "keys", "data inspect", "data verify", "plan",
    "checkpoint inspect", "checkpoint verify", "sample", "evaluate", "sweep status", "sweep design", "fit", "optimal",
    "forecast score", "report", "watch", "why", "compare", "sweep coordcheck", "sweep critical-batch",
}  # fmt: skip
WRITE = {
    "train", "submit", "cancel", "preflight", "data prepare", "data export", "data import", "checkpoint clean",
    "checkpoint convert", "sweep run", "sweep submit", "sweep resume", "forecast",
    "wandb sync", "profile", "sweep tune",
}  # fmt: skip


def names(group: click.Group, before: str = "") -> Iterator[str]:
    """Yield every command that does something by itself."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{before}{name}"
        if isinstance(command, click.Group):
            yield from names(command, f"{before}{name} ")


def test_every_command_is_known_to_read_or_to_write() -> None:
    assert set(names(commands)) == READ | WRITE and not READ & WRITE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a directory with data, a trained sweep, a fit of it, and a sweep on a Slurm where a cell went wrong."""
    root = tmp_path_factory.mktemp("reading")
    with pytest.MonkeyPatch.context() as patch:
        (root / "home").mkdir()
        patch.chdir(root)
        patch.setenv("HOME", str(root / "home"))
        patch.setenv("XDG_CACHE_HOME", str(root / "home" / "cache"))
        run = configuration(root, 12, evaluation={"tokens": 4096}).model_dump(mode="json")
        del run["tokens"]
        (root / "run.yaml").write_text(yaml.safe_dump(run))
        sizes = [{"model.d_ff": 32 * k, "steps": steps} for k in (1, 2, 4) for steps in (6, 12)]
        (root / "s.yaml").write_text(yaml.safe_dump({"name": "s", "slots": 2, "run": run, "cells": sizes}))
        (root / "unprepared.yaml").write_text(
            yaml.safe_dump({"name": "u", "run": {**run, "data": {**run["data"], "name": "other"}}, "cells": sizes})
        )
        queue = Stub(root, patch)
        (root / "c.yaml").write_text("backend: slurm\n")
        (root / "q.yaml").write_text(yaml.safe_dump({"name": "q", "run": run, "cells": sizes[:3]}))
        call("sweep", "run", "s.yaml")
        rows = [
            (n, d, 1.7 + 406 / n**0.34 + 411 / d**0.28) for n in (1e6, 4e6, 2e7, 1e8) for d in (1e8, 1e9, 5e9, 2e10)
        ]
        (root / "table.csv").write_text("N,D,loss\n" + "".join(f"{n},{d},{loss}\n" for n, d, loss in rows))
        write_ledger(root / "runs/two/ledger.jsonl", kinds=("transformer", "lstm"), lengths=(8e5,))
        steps = [
            (batch, step, 2 + 3 * (step * batch / (batch + 4000)) ** -0.5)
            for batch in (1000, 4000, 16000)
            for step in range(50, 2000, 50)
        ]
        (root / "curves.csv").write_text(
            "name,batch,step,loss\n" + "".join(f"b{b},{b},{step},{loss}\n" for b, step, loss in steps)
        )
        call("fit", "table.csv", "--law", "chinchilla", "--bootstrap", "40", "--out", "fit.json")
        call("forecast", "--fit", "fit.json", "--params", "1M", "--tokens", "1B")
        call("sweep", "submit", "q.yaml", "--cluster", "c.yaml")
        done, failed, running = (RunDir(root / "runs/q/cells" / c.id) for c in cells_of(load_sweep(root / "q.yaml")))
        done.write_status(Status.DONE)  # with no result that could be read
        for started in (failed, running):
            started.write_status(Status.RUNNING)
            started.logs(1).mkdir(parents=True)
            (started.logs(1) / "rank_0.log").write_text("a line\n")
        queue.says(t100_0="COMPLETED", t100_1="OUT_OF_MEMORY", t100_2="RUNNING")
        yield root


def call(*words: str) -> None:
    """Run a command in this process. It must end well."""
    try:
        main(list(words))
    except SystemExit as stop:
        assert not stop.code, words


def traces(root: Path) -> dict[str, tuple[int, str]]:
    """Return when every file and directory was changed last, and what is in it."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(root.rglob("*"))
    }


CALLS = [
    "render run.yaml --cluster c.yaml",
    "jobs",
    "jobs q --json",
    "jobs --failed",
    "why runs/q/cells/{failed}",
    "watch",
    "watch q --sort loss --json",
    "logs 100_1",
    "logs runs/q/cells/{failed}",
    "clusters",
    "doctor",
    "keys",
    "keys --of cluster",
    "data inspect data/tiny",
    "data verify data/tiny",
    "plan run.yaml",
    "plan run.yaml --json",
    "plan run.yaml --gpu H100 --world 8",
    "checkpoint inspect runs/s/cells/{cell}",
    "checkpoint verify runs/s/cells/{cell}",
    "sample runs/s/cells/{cell} --prompt a --tokens 2",
    "evaluate runs/s/cells/{cell} --tokens 256",
    "sweep status s.yaml",
    "sweep status q.yaml --json",
    "sweep status unprepared.yaml",
    "sweep run s.yaml --dry-run",
    "sweep submit q.yaml --cluster c.yaml --dry-run",
    "sweep design --flops 1e17 --smallest 1M --largest 10M --target 1e19 --run run.yaml",
    "fit runs/s/ledger.jsonl --law power-N --bootstrap 40",
    "fit runs/s/ledger.jsonl --law power-N --bootstrap 40 --hold-out --json",
    "optimal --fit fit.json --flops 1e15",
    "forecast score runs/s/ledger.jsonl",
    "report runs/s/ledger.jsonl --out {elsewhere}",
    "train run.yaml --dry-run",
    "compare runs/two --group-by kind --base transformer --variant lstm",
    "sweep critical-batch curves.csv",
    "sweep coordcheck run.yaml --times 1,2,3 --steps 1 --seeds 2 --set optim.lr=0.01",
]


@pytest.mark.parametrize("line", CALLS)
def test_a_command_that_asks_changes_nothing(
    place: Path, line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert any(line.startswith(name) for name in READ) or "--dry-run" in line
    cell = json.loads((place / "runs/s/ledger.jsonl").read_text().splitlines()[0])["cell"]
    failed = cells_of(load_sweep(place / "q.yaml"))[1].id
    before = traces(place)
    call(*line.format(cell=cell, failed=failed, elsewhere=tmp_path / "report").split())
    assert traces(place) == before
    assert capfd.readouterr().out, "it tells something"


def test_every_reading_command_is_called() -> None:
    assert {name for name in READ if not any(f"{line} ".startswith(f"{name} ") for line in CALLS)} == set()


@pytest.mark.parametrize(
    "line",
    ["forecast --fit fit.json --sweep unprepared.yaml", "optimal --fit fit.json --flops 1e15 --sweep unprepared.yaml"],
)
def test_what_needs_data_does_not_prepare_them(place: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = traces(place)
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2 and "escala data prepare" in capsys.readouterr().err
    assert traces(place) == before
