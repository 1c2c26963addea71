"""A sweep as an array of a stubbed Slurm: nothing twice, nothing lost, and the law once all cells have ended."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner, Result

from launch.cluster.config import ClusterConfig
from launch.cluster.job import JobSpec, JobState, JobStatus
from launch.commands.cancel import cancel
from launch.commands.sweep import sweep
from launch.show.console import make_console
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import load_sweep
from launch.sweep.execute import opened, story
from launch.sweep.execute.place import place_of
from launch.sweep.execute.status import sweep_status
from launch.sweep.execute.story import Wish, resume_sweep, run_sweep, submit_sweep
from launch.sweep.ledger import ledger
from tests.launch import test_sweep_run
from tests.launch.test_sweep_cells import RUN
from trainer.config.base import parse_section
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status


class Stub:
    """sbatch, squeue and scontrol of a cluster that keeps its jobs in a file."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        bin_dir = root / "bin"
        bin_dir.mkdir()
        self.queue, self.scripts = root / "queue", root / "scripts"
        self.queue.write_text("")
        self.scripts.mkdir()
        programs = {
            "sbatch": 'case "$*" in *--test-only*) exit;; esac\n'
            f'n=$(ls "{self.scripts}" | wc -l); cat >"{self.scripts}/$n"; echo "$((100 + n))"',
            "squeue": f'cat "{self.queue}"',
            "scontrol": "exit 0",
            "sacct": "exit 1",
            "scancel": f'echo "$*" >>"{root}/cancelled"',
        }
        for name, text in programs.items():
            (bin_dir / name).write_text(f"#!/bin/sh\n{text}\n")
            (bin_dir / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")

    def says(self, **states: str) -> None:
        """Have squeue list tasks: `t100_0="RUNNING"`."""
        self.queue.write_text("".join(f"{name[1:]}|{state}|0|None|n1|\n" for name, state in states.items()))

    def submitted(self) -> list[str]:
        return [(self.scripts / name).read_text() for name in sorted(os.listdir(self.scripts))]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    monkeypatch.setattr(opened, "ensure_prepared", lambda data: SimpleNamespace(tokens=lambda split: 10**6))
    monkeypatch.setattr(opened, "with_data", lambda run, manifest: run)
    (tmp_path / "c.yaml").write_text("backend: slurm\nnodes: 1\nranks_per_node: 2\n")
    values = {"name": "s", "ranks": 2, "run": RUN, "vary": {"seed": [0, 1, 2]}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(values))
    return Stub(tmp_path, monkeypatch)


def submit(stub: Stub, **options: object) -> None:
    wish = Wish(stub.root / "s.yaml", (), stub.root / "runs", **options)  # type: ignore[arg-type]
    assert not submit_sweep(wish, str(stub.root / "c.yaml"), make_console()).failure


def resume(stub: Stub, failed: bool = False) -> str:
    wish = Wish(stub.root / "s.yaml", (), stub.root / "runs", failed=failed)
    return resume_sweep(wish, make_console()).failure


def command(stub: Stub, *words: str) -> Result:
    """Run `escala sweep` with the sweep and its runs."""
    return CliRunner().invoke(
        sweep, [words[0], str(stub.root / "s.yaml"), "--runs", str(stub.root / "runs"), *words[1:]]
    )


def run_dirs(stub: Stub) -> list[RunDir]:
    cells = cells_of(load_sweep(stub.root / "s.yaml"))
    return [RunDir(stub.root / "runs" / "s" / "cells" / cell.id) for cell in cells]


def finish(run_dir: RunDir) -> None:
    test_sweep_run.finish(JobSpec(run_dir.root.name, (), run_dir.root))


def test_missing_cells_go_as_one_array_and_nothing_is_sent_twice(stub: Stub) -> None:
    submit(stub, at_most=2)
    (script,) = stub.submitted()
    assert "#SBATCH --array=0-2%2" in script
    for run_dir in run_dirs(stub):
        assert str(run_dir.root) in script and run_dir.config.exists()
    stub.says(t100_0="RUNNING", t100_1="PENDING", t100_2="PENDING")
    resume(stub)
    assert len(stub.submitted()) == 1, "all are queued or running"
    states = [cell["state"] for cell in sweep_status(stub.root / "s.yaml", (), stub.root / "runs")["cells"]]
    assert states == ["running", "pending", "pending"]


def test_failed_cells_are_listed_and_sent_when_asked_for(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    submit(stub)
    done, failed, lost = run_dirs(stub)
    finish(done)
    (failed.logs(1)).mkdir(parents=True)
    stub.says(t100_0="COMPLETED", t100_1="OUT_OF_MEMORY", t100_2="CANCELLED")
    assert re.search(r"1 of 3 cells failed \(.*out of memory\).*sweep resume .* --failed", resume(stub))
    assert failed.read_status() is Status.FAILED
    _, second = stub.submitted()
    assert str(lost.root) in second and str(failed.root) not in second and str(done.root) not in second
    assert "1 done, 1 failed, 1 to do" in capsys.readouterr().out
    stub.says(t100_1="OUT_OF_MEMORY", t101_0="RUNNING")
    resume(stub, failed=True)
    third = stub.submitted()[2]
    assert str(failed.root) in third and str(lost.root) not in third
    assert next(iter(ledger.read(stub.root / "runs/s/ledger.jsonl")))["cell"] == done.root.name


def test_diverged_cells_are_kept_and_the_report_follows_the_last_cell(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[int] = []
    monkeypatch.setattr(story, "report", lambda opened, console, n_convention: reported.append(len(opened.cells)))
    submit(stub)
    first, second, third = run_dirs(stub)
    finish(first)
    finish(second)
    third.write_status(Status.DIVERGED)
    stub.says(t100_0="COMPLETED", t100_1="COMPLETED", t100_2="FAILED")
    assert re.search(r"^1 of 3 cells diverged \(.*--failed' starts them again$", resume(stub))
    assert reported == [3] and len(stub.submitted()) == 1
    rows = ledger.latest(stub.root / "runs/s/ledger.jsonl")
    assert [rows[d.root.name]["status"] for d in (first, second, third)] == ["done", "done", "diverged"]
    resume(stub, failed=True)
    assert third.root.name in stub.submitted()[1] and first.root.name not in stub.submitted()[1]


def test_what_a_new_job_says_at_once_stands(stub: Stub) -> None:
    failed = run_dirs(stub)[1]
    failed.root.mkdir(parents=True)
    failed.write_status(Status.FAILED)
    sbatch = stub.root / "bin" / "sbatch"
    before = f"""case "$*" in *--test-only*) ;; *) cp "{failed.root}/status" "{stub.root}/before"; echo failed"""
    sbatch.write_text(
        sbatch.read_text().replace("#!/bin/sh\n", f'#!/bin/sh\n{before} >"{failed.root}/status";; esac\n')
    )
    submit(stub, failed=True)
    assert (stub.root / "before").read_text() == "pending\n"
    assert failed.read_status() is Status.FAILED, "the new job wrote it, the submitter must not take it back"


def test_this_machine_does_not_start_what_a_cluster_runs(stub: Stub) -> None:
    submit(stub)
    stub.says(t100_0="RUNNING", t100_1="PENDING", t100_2="COMPLETED")
    with pytest.raises(UserError, match=r"2 cells of this sweep are queued or running on .*c\.yaml"):
        run_sweep(Wish(stub.root / "s.yaml", (), stub.root / "runs"), make_console())


def test_scripts_get_one_object_and_people_the_rest(stub: Stub) -> None:
    sent = command(stub, "submit", "--cluster", str(stub.root / "c.yaml"), "--json")
    names = [run_dir.root.name for run_dir in run_dirs(stub)]
    told = json.loads(sent.stdout)
    assert told["started"] == names and told["report"] is None and sent.exit_code == 0
    assert told["ledger"] == str(stub.root / "runs" / "s" / "ledger.jsonl")
    assert "submitted 3 cells as slurm job 100" in sent.stderr
    stub.says(t100_0="RUNNING", t100_1="OUT_OF_MEMORY", t100_2="RUNNING")
    again = command(stub, "resume", "--json")
    told = json.loads(again.stdout)
    assert told["started"] == [] and [cell["job"] for cell in told["cells"]] == ["100_0", "100_1", "100_2"]
    assert "out of memory" in told["cells"][1]["reason"]
    assert isinstance(again.exception, UserError) and "1 of 3 cells failed" in str(again.exception)
    plan = command(stub, "run", "--json", "--dry-run")
    assert isinstance(plan.exception, UserError) and "leave one of them out" in str(plan.exception)


def test_a_cell_that_failed_here_says_why(stub: Stub) -> None:
    failed = run_dirs(stub)[1]
    failed.root.mkdir(parents=True)
    failed.record_event("failed", error="rank 1 ended")
    failed.write_status(Status.FAILED)
    cells = sweep_status(stub.root / "s.yaml", (), stub.root / "runs")["cells"]
    assert [cell["reason"] for cell in cells] == ["", "rank 1 ended", ""]


def test_a_dry_run_prints_the_script_and_sends_nothing(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    submit(stub, dry_run=True)
    assert "#SBATCH --array=0-2" in capsys.readouterr().out
    assert stub.submitted() == [] and not (stub.root / "runs" / "s").exists()


@pytest.mark.parametrize(
    ("cluster", "options", "message"),
    [
        ("backend: slurm\nnodes: 2\nranks_per_node: 8\n", {}, r"has 2 ranks, a job on .* has 2 nodes x 8 = 16: set"),
        ("backend: local\nranks_per_node: 2\n", {"at_most": 1}, "--at-most has no effect on local"),
        ("backend: slurm\nranks_per_node: 2\noptions: {partitoin: x}\n", {}, "partitoin"),
    ],
)
def test_what_cannot_be_sent_is_refused(stub: Stub, cluster: str, options: dict, message: str) -> None:
    (stub.root / "c.yaml").write_text(cluster)
    with pytest.raises(UserError, match=message):
        submit(stub, **options)
    assert stub.submitted() == []
    assert not any(run_dir.root.exists() for run_dir in run_dirs(stub))


def test_a_sweep_is_cancelled_by_the_name_and_the_id_that_were_printed(stub: Stub) -> None:
    submit(stub)
    stub.says(t100_0="RUNNING", t100_1="PENDING", t100_2="COMPLETED")
    for word in ("s", "100"):
        done = CliRunner().invoke(cancel, [word, "--runs", str(stub.root / "runs")])
        assert done.exit_code == 0, done.output
    asked = (stub.root / "cancelled").read_text().splitlines()
    assert [sorted(line.split()) for line in asked] == [["100_0", "100_1"]] * 2, "one order, without what is done"
    stub.says(t100_0="CANCELLED", t100_1="CANCELLED", t100_2="COMPLETED")
    done = CliRunner().invoke(cancel, ["s", "--runs", str(stub.root / "runs")])
    assert isinstance(done.exception, UserError) and "Nothing was cancelled" in str(done.exception)


def test_a_controller_that_is_away_changes_nothing(stub: Stub) -> None:
    """Cells whose state is unknown are neither failed nor sent again, and what cannot be asked is said."""
    submit(stub)
    (stub.root / "bin" / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    before = [run_dir.read_status() for run_dir in run_dirs(stub)]
    cells = sweep_status(stub.root / "s.yaml", (), stub.root / "runs")["cells"]
    assert {cell["state"] for cell in cells} == {"unknown"} and "Unable to contact" in cells[0]["reason"]
    resume(stub)
    assert len(stub.submitted()) == 1 and [d.read_status() for d in run_dirs(stub)] == before


def test_a_sweep_goes_on_from_another_directory_without_its_cluster_file(stub: Stub, monkeypatch) -> None:
    """The file was named relative to the directory of the submission."""
    monkeypatch.chdir(stub.root)
    submit_sweep(Wish(Path("s.yaml"), (), stub.root / "runs"), "c.yaml", make_console())
    stub.says(t100_0="RUNNING", t100_1="RUNNING", t100_2="RUNNING")
    (stub.root / "elsewhere").mkdir()
    monkeypatch.chdir(stub.root / "elsewhere")
    resume(stub)
    (stub.root / "c.yaml").unlink()
    states = [cell["state"] for cell in sweep_status(stub.root / "s.yaml", (), stub.root / "runs")["cells"]]
    assert states == ["running"] * 3 and len(stub.submitted()) == 1


def test_a_sweep_that_never_began_cannot_go_on(stub: Stub) -> None:
    with pytest.raises(UserError, match="has not been started"):
        resume(stub)


def test_a_cell_that_fails_at_once_keeps_its_word(stub: Stub) -> None:
    submit(stub)
    failed = run_dirs(stub)[1]
    failed.write_status(Status.FAILED)
    sbatch = stub.root / "bin" / "sbatch"
    whole = sbatch.read_text()
    sbatch.write_text(f"{whole}[ $n = 1 ] && echo failed >'{failed.root}/status'; exit 0\n")
    stub.says(t100_0="RUNNING", t100_1="FAILED", t100_2="RUNNING")
    resume(stub, failed=True)
    assert len(stub.submitted()) == 2 and failed.read_status() is Status.FAILED


def test_cells_that_are_refused_keep_how_they_ended(stub: Stub) -> None:
    submit(stub)
    failed = run_dirs(stub)[1]
    failed.write_status(Status.FAILED)
    stub.says(t100_0="RUNNING", t100_1="FAILED", t100_2="RUNNING")
    (stub.root / "bin" / "sbatch").write_text(
        "#!/bin/sh\ncase $* in *--test-only*) exit;; esac; echo 'sbatch: error: no' >&2; exit 1\n"
    )
    with pytest.raises(UserError, match="nothing was submitted"):
        resume(stub, failed=True)
    assert failed.read_status() is Status.FAILED


def test_a_sweep_warns_of_gpus_that_nobody_asks_for(stub: Stub) -> None:
    (stub.root / "c.yaml").write_text("backend: slurm\nranks_per_node: 2\ngpu: H100-SXM\n")
    done = command(stub, "submit", "--cluster", str(stub.root / "c.yaml"), "--dry-run")
    assert "warning: 2 ranks a node train on H100-SXM" in done.stderr, (done.output, done.exception)


def test_a_cell_that_is_trained_here_is_no_longer_that_of_an_earlier_job(stub: Stub) -> None:
    """Else what Slurm says of the old job would become the word of the new attempt."""
    submit(stub)
    stub.says(t100_0="FAILED", t100_1="FAILED", t100_2="FAILED")
    assert "3 of 3 cells failed" in resume(stub)
    first = run_dirs(stub)[0]

    def outcome(spec: JobSpec, starts: int) -> JobStatus:
        if spec.run_dir == first.root:
            first.write_status(Status.RUNNING)  # and nobody is there to say more
            return JobStatus(JobState.CANCELLED)
        return test_sweep_run.finish(spec)

    directory = stub.root / "runs" / "s"
    test_sweep_run.drive(directory, test_sweep_run.cells(), outcome, retry=True)
    again, backend = test_sweep_run.run(directory, lambda spec, _: test_sweep_run.finish(spec))
    assert backend.submitted == [first.root.name] and not again.stands.failed


def test_cells_that_nobody_would_start_are_refused() -> None:
    asked = SimpleNamespace(sweep=SimpleNamespace(slots=None, ranks=1))
    with pytest.raises(UserError, match="nothing starts the cells of a sweep on mine: accelerate only lays runs out"):
        place_of(asked, parse_section(ClusterConfig, {"backend": "accelerate"}, "mine"), "mine", None)
