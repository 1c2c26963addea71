"""The batch script run by a real bash, with programs of Slurm that pretend: setup, requeueing, arrays, standstill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.cluster.job import JobSpec, Requeue, Task
from launch.cluster.slurm.batch_output import reason_in
from launch.cluster.slurm.script import render_script, warnings
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_PORT_TAKEN, EXIT_STANDSTILL

SCONTROL = """#!/bin/bash
case "$*" in
*hostnames*) echo n1 ;;
*"show node"*) echo "NodeName=n1 NodeAddr=n1 x" ;;
*"show job"*) echo "JobId=7 TimeLimit=${LIMIT:-UNLIMITED} x" ;;
requeue*) echo "$2" >>"$OUT/requeued"; kill -9 $PPID ;;
esac
"""
SRUN = """#!/bin/bash
env -0 >"$OUT/env"; printf '%s\\0' "$@" >"$OUT/argv"
[ -z "${SAVES:-}" ] || echo "$SAVES" >"$RUN/latest"
exit "${CODE:-0}"
"""


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script of a job, as Slurm would: `more` are variables of its environment."""
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(extras: dict[str, Any] | None = None, spec: JobSpec | None = None, **more: str):
        spec = spec or JobSpec("x", ("-m", "y"), tmp_path / "run", extras=extras or {}, requeue=Requeue(on_timeout=1))
        script = render_script(spec, python="python3", directory=tmp_path)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(tmp_path), "HOME": str(tmp_path)}
        environment |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "RUN": str(tmp_path / "run"), **more}
        return subprocess.run(
            ["bash"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30
        )

    return run


def seen(tmp_path: Path) -> dict[str, str]:
    return dict(item.split("=", 1) for item in (tmp_path / "env").read_text().split("\0") if "=" in item)


CONDA = 'activate() { [ -n "$CONDA_SHLVL" ]; false; export PS1="(base) $PS1" FOUND=1; }'


def test_setup_runs_under_the_rules_of_a_users_shell(batch: Callable[..., Any], tmp_path: Path) -> None:
    """Variables that are not set are empty, and what fails within a function of the user's is its own business."""
    done = batch({"setup": [CONDA, "activate", 'if [ -z "$NOT_SET" ]; then', "  export LOADED=yes", "fi"]})
    assert done.returncode == 0, done.stderr
    assert (seen(tmp_path)["LOADED"], seen(tmp_path)["FOUND"]) == ("yes", "1")


def test_setup_that_fails_ends_the_job_and_is_named(batch: Callable[..., Any], tmp_path: Path) -> None:
    module = 'module() { echo "Unable to locate a modulefile" >&2; return 4; }'
    done = batch({"setup": [module, "module load cuda/99", "export NEVER=1"]})
    assert done.returncode == 4 and not (tmp_path / "env").exists()
    assert "setup failed with code 4: module load cuda/99" in done.stderr
    (tmp_path / "out").write_text(done.stdout + done.stderr)
    assert reason_in(tmp_path / "out") == "setup failed with code 4: module load cuda/99"
    assert batch({"setup": [module, "module load cuda/99"], "setup_may_fail": True}).returncode == 0


def test_what_the_site_says_about_the_environment_ends_at_srun(batch: Callable[..., Any], tmp_path: Path) -> None:
    done = batch(SLURM_EXPORT_ENV="NONE", WANDB_API_KEY="k")
    assert done.returncode == 0
    assert "SLURM_EXPORT_ENV" not in seen(tmp_path) and seen(tmp_path)["WANDB_API_KEY"] == "k"
    assert "--export=ALL" in (tmp_path / "argv").read_text().split("\0")


def requeued(tmp_path: Path) -> list[str]:
    path = tmp_path / "requeued"
    return path.read_text().split() if path.exists() else []


def test_the_partitions_own_limit_counts_as_a_time_out(batch: Callable[..., Any], tmp_path: Path) -> None:
    """The job asked for no limit; Slurm tells which one holds."""
    batch(CODE="75", LIMIT="00:02:00", SAVES="step_1")
    assert requeued(tmp_path) == ["7"] and (tmp_path / "run" / "logs" / "timeouts").read_text() == "7\n"
    done = batch(CODE="75", LIMIT="00:02:00", SAVES="step_2", SLURM_RESTART_COUNT="1")
    assert done.returncode == 75 and "reached 2 times, 1 are allowed" in done.stdout
    assert requeued(tmp_path) == ["7"]
    batch(CODE="75", LIMIT="00:02:00", SAVES="step_3")
    assert requeued(tmp_path) == ["7", "7"], "a new submission counts from the start"


@pytest.mark.parametrize(("limit", "timed_out"), [("UNLIMITED", False), ("2-00:00:00", False), ("00:03:20", True)])
def test_preemption_and_time_outs_are_told_apart(
    batch: Callable[..., Any], tmp_path: Path, limit: str, timed_out: bool
) -> None:
    batch(CODE="75", LIMIT=limit, SAVES="step_1")
    assert requeued(tmp_path) == ["7"]
    assert (tmp_path / "run" / "logs" / "timeouts").exists() == timed_out


def test_a_task_of_an_array_requeues_itself_alone(batch: Callable[..., Any], tmp_path: Path) -> None:
    """The last task has the array's own id: requeueing that sends every task back."""
    tasks = tuple(Task(f"t{i}", ("-m", "y"), tmp_path / f"t{i}") for i in range(2))
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    batch(spec=JobSpec("x", (), tmp_path, array=tasks), CODE="75", **array)
    assert requeued(tmp_path) == ["7_1"]
    words = (tmp_path / "argv").read_text().split("\0")
    assert words[words.index("--job") + 1] == "7_1" and words[words.index("--repeat") + 1] == "0"


def test_the_agents_count_what_does_not_advance(batch: Callable[..., Any], tmp_path: Path) -> None:
    """They are told how often the job was started before, and a job that they ended does not come back."""
    batch(CODE="75", SLURM_RESTART_COUNT="2")
    words = (tmp_path / "argv").read_text().split("\0")
    assert words[words.index("--repeat") + 1] == "2" and len(requeued(tmp_path)) == 1
    done = batch(CODE=str(EXIT_STANDSTILL), SLURM_RESTART_COUNT="3", LIMIT="00:00:01")
    assert done.returncode == EXIT_STANDSTILL and len(requeued(tmp_path)) == 1


def test_the_nodes_of_one_start_have_an_id_that_no_other_start_has(batch: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "srun").write_text(f'#!/bin/bash\nprintf \'%s \' "$@" >>"$OUT/all"; exit {EXIT_PORT_TAKEN}\n')
    assert batch().returncode == EXIT_PORT_TAKEN
    words = (tmp_path / "all").read_text().split()
    seen = [words[i + 1] for i, word in enumerate(words) if word == "--id"]
    assert len(set(seen)) == 3 and all(one.startswith("7.") for one in seen)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("output", "Escala sets --output itself"),
        ("array", "Escala sets --array itself: use a sweep"),
        ("partition", "give 'partition' under `options` itself"),
        ("gpus-per-node", "give 'gpus_per_node' under"),
        ("Comment", "is not a long option"),
        ("a=b", "is not a long option"),
        ("x\n#SBATCH --uid=0", "is not a long option"),
    ],
)
def test_extra_options_are_checked_as_keys(key: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        render_script(JobSpec("x", ("y",), tmp_path, extras={"extra": {key: "1"}}), python="p", directory=tmp_path)


@pytest.mark.parametrize("value", ["a\nb", "\0", "", "a\rb"])
def test_extra_values_are_one_line(value: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"slurm.extra.comment"):
        render_script(
            JobSpec("x", ("y",), tmp_path, extras={"extra": {"comment": value}}), python="p", directory=tmp_path
        )


def test_extra_options_are_rendered_in_quotes(tmp_path: Path) -> None:
    extra = {"licenses": "ansys:2", "comment": 'a "b" \\ # $(c)', "nice": 100, "contiguous": True, "spread-job": False}
    spec = JobSpec("x", ("y",), tmp_path, extras={"extra": extra, "mem": 0})
    script = render_script(spec, python="p", directory=tmp_path)
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert lines[-5:] == [
        *("--mem=0", "--licenses=ansys:2", '--comment="a \\"b\\" \\\\ # $(c)"', "--nice=100", "--contiguous")
    ]


def test_ranks_without_gpus_are_warned_about(tmp_path: Path) -> None:
    def said(gpu: str | None, **extras: object) -> str:
        return "".join(warnings(JobSpec("x", ("y",), tmp_path, ranks_per_node=8, gpu=gpu, extras=extras)))

    assert "8 ranks a node train on H100-SXM, but the job asks Slurm for no GPUs" in said("H100-SXM")
    assert "share 4 GPUs" in said("H100-SXM", gpus_per_node="h100:4")
    assert said(None) == said("H100-SXM", gpus_per_node=8) == said("H100-SXM", gres="gpu:8") == ""
    assert said("H100-SXM", extra={"gpus-per-task": 8}) == ""
