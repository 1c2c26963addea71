"""Submitting to Slurm without a Slurm: the id in what sbatch prints, arrays above the limit, secrets, environments."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.cluster import registry
from launch.cluster.job import JobIdentity, JobSpec, Task
from launch.cluster.process import CallError
from launch.cluster.slurm.backend import SlurmBackend
from launch.cluster.slurm.environment import client_environment, job_environment
from launch.cluster.slurm.queue import SlurmQueue, seconds, user_name
from tests.launch.test_slurm_states import CONFIG, backend
from trainer.contract.errors import UserError

SHOWN = "JobId=12 JobName=x UserId=root(0)"


@pytest.mark.parametrize(
    "answer",
    [
        "12\n",
        "12;lab\n",
        "*** Welcome to Lab ***\n2026\n12\nYour balance: 400 h\n",
        "Submitted batch job 12\n",
        "\n\n12;lab\nThank you for using 3 nodes\n",
    ],
)
def test_the_id_is_found_among_what_a_site_prints(tmp_path: Path, answer: str) -> None:
    """2026 is a job of somebody else, by name."""
    one = backend({"sbatch": answer, "scontrol -o show": SHOWN, "scontrol show config": CONFIG})
    real = one.queue._call

    def names(argv: list[str], **more: object) -> str:
        return "JobId=2026 JobName=other" if argv[-1] == "2026" else real(argv, **more)

    one.queue._call = names  # type: ignore[assignment]
    assert one.submit(JobSpec("x", ("-m", "y"), tmp_path / "x", time_limit=60)) == "12"
    assert one.identity("12") == JobIdentity("lab", user_name(), "x", str(tmp_path / "x"))


def test_an_answer_without_an_id_is_looked_up_by_name(tmp_path: Path) -> None:
    spec = JobSpec("x", ("-m", "y"), tmp_path / "x", time_limit=60)
    listed = f"11|/elsewhere/slurm-11.out|\n12|{tmp_path}/x/slurm-%j.out|\n"
    answers = {"sbatch": "accepted\n", "scontrol -o show": SHOWN, "scontrol show config": CONFIG}
    assert backend({**answers, "squeue": listed}).submit(spec) == "12"
    with pytest.raises(UserError, match=r"Do not submit again: it may be queued. `squeue --me --name=x`"):
        backend({**answers, "squeue": ""}).submit(spec)


def test_a_job_that_a_site_renames_is_not_called_lost(tmp_path: Path) -> None:
    renamed = {"sbatch": "12\n", "scontrol -o show": "JobId=12 JobName=lab_x", "scontrol show config": CONFIG}
    with pytest.raises(UserError, match="Do not submit again"):
        backend({**renamed, "squeue": ""}).submit(JobSpec("x", ("-m", "y"), tmp_path / "x", time_limit=60))


def test_an_array_above_the_limit_is_divided(tmp_path: Path) -> None:
    """MaxArraySize is 4 here: 10 tasks are three arrays, one behind the other where a cap holds for all."""
    tasks = tuple(Task(f"t{i}", ("-m", "x"), tmp_path / f"t{i}") for i in range(10))
    for cap in (None, 2):
        scripts: list[str] = []

        def pretended(argv: list[str], stdin: str = "", into: list[str] = scripts, **_: object) -> str:
            if argv[0] == "sbatch":
                into.append(stdin)
                return f"{100 + len(into)}\n"
            return CONFIG if argv[-1] == "config" else ""

        one = SlurmBackend(python="python3", directory=Path("/x"), call=pretended)
        spec = JobSpec("sweep", (), tmp_path, array=tasks, array_cap=cap, time_limit=60, after=("17",))
        job = one.submit(spec)
        assert job == "101,102,103"
        suffix = "%2" if cap else ""
        assert [f"--array=0-{last}{suffix}\n" in script for last, script in zip((3, 3, 1), scripts, strict=True)] == [
            True
        ] * 3
        assert "--dependency=afterok:17\n" in scripts[0]
        assert ("--dependency=afterok:17,afterany:101\n" in scripts[1]) == (cap is not None)
        rows = registry.record(spec, job, cluster="c", backend="slurm", identity=one.identity(job))
        assert [row.job for row in rows[3:6]] == ["101_3", "102_0", "102_1"] and rows[-1].job == "103_1"
        assert str(tasks[9].run_dir) in scripts[2] and str(tasks[4].run_dir) in scripts[1]
        assert len(registry.find_all(tmp_path, job)) == 10 and len(registry.find_all(tmp_path, "103")) == 2


def test_a_shard_that_is_refused_takes_the_others_back(tmp_path: Path) -> None:
    tasks = tuple(Task(f"t{i}", ("-m", "x"), tmp_path / f"t{i}") for i in range(10))
    asked: list[list[str]] = []

    def pretended(argv: list[str], **_: object) -> str:
        asked.append(argv)
        if argv[0] == "sbatch" and sum(words[0] == "sbatch" for words in asked) == 2:
            raise CallError("sbatch failed", "sbatch: error: AssocMaxSubmitJobLimit")
        return {"sbatch": "101\n", "scontrol": CONFIG}.get(argv[0], "")

    with pytest.raises(UserError, match="AssocMaxSubmitJobLimit; nothing was submitted"):
        SlurmBackend(python="python3", directory=Path("/x"), call=pretended).submit(
            JobSpec("sweep", (), tmp_path, array=tasks, time_limit=60)
        )
    assert ["scancel", "101"] in asked


@pytest.mark.parametrize("cancelled", [True, False])
def test_no_answer_for_a_later_shard_takes_the_others_back_or_names_them(tmp_path: Path, cancelled: bool) -> None:
    tasks = tuple(Task(f"t{i}", ("-m", "x"), tmp_path / f"t{i}") for i in range(10))
    asked: list[list[str]] = []

    def pretended(argv: list[str], **_: object) -> str:
        asked.append(argv)
        if argv[0] == "sbatch" and sum(words[0] == "sbatch" for words in asked) == 2:
            raise UserError("sbatch gave no answer within 60 s")
        if argv[0] == "scancel" and not cancelled:
            raise UserError("scancel gave no answer within 60 s")
        return {"sbatch": "101\n", "scontrol": CONFIG}.get(argv[0], "")

    with pytest.raises(UserError, match="sbatch gave no answer within 60 s") as refused:
        SlurmBackend(python="python3", directory=Path("/x"), call=pretended).submit(
            JobSpec("sweep", (), tmp_path, array=tasks, time_limit=60)
        )
    assert ["scancel", "101"] in asked
    assert ("still queued" in str(refused.value) and "101" in str(refused.value)) == (not cancelled)


def test_accounting_is_asked_in_lists_that_a_command_line_holds() -> None:
    asked: list[list[str]] = []

    def pretended(argv: list[str], **_: object) -> str:
        asked.append(argv)
        return ""

    SlurmQueue(pretended).accounted([f"12345678_{task}" for task in range(20_000)] + [str(i) for i in range(10_000)])
    assert max(len(" ".join(argv)) for argv in asked) < 30_000
    named = [job for argv in asked for job in argv[-1].partition("=")[2].split(",")]
    assert len(named) == len(set(named)) == 10_001


@pytest.mark.parametrize(
    ("text", "known"), [("1-02:03:04", 93784), ("00:10:00", 600), ("UNLIMITED", None), ("NONE", None), ("", None)]
)
def test_times(text: str, known: int | None) -> None:
    assert seconds(text) == known


def test_a_signal_longer_than_the_partition_allows_is_refused(tmp_path: Path) -> None:
    partition = (
        "PartitionName=short Default=YES DefaultTime=NONE MaxTime=00:02:00\nPartitionName=long MaxTime=UNLIMITED"
    )
    one = backend({"sbatch": "12\n", "scontrol -o show": partition, "scontrol show config": CONFIG})
    with pytest.raises(
        UserError, match=r"signal_seconds \(120\) is not less than the time limit of 120 s \(that of part"
    ):
        one.submit(JobSpec("x", ("-m", "y"), tmp_path / "x"))
    with pytest.raises(UserError, match="time limit of 60 s"):
        one.render(JobSpec("x", ("-m", "y"), tmp_path / "x", time_limit=1))


def test_a_secret_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "x")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    one = SlurmBackend(python="p", directory=tmp_path, secrets=("HERE", "WANDB_API_KEY"))
    for begin in (one.rehearse, one.submit):
        with pytest.raises(UserError, match=r"^WANDB_API_KEY: named under `secrets` but not set"):
            begin(JobSpec("x", ("-m", "y"), tmp_path / "x"))


def test_nothing_of_an_outer_job_reaches_a_new_one() -> None:
    outer = {
        "SLURM_CPU_BIND": "map_cpu:0",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_JOB_ID": "9",
        "SBATCH_EXPORT": "NONE",
        "SRUN_CPUS_PER_TASK": "1",
        "SQUEUE_PARTITION": "x",
        "CUDA_VISIBLE_DEVICES": "0",
        "PMIX_RANK": "0",
        "RANK": "1",
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SBATCH_ACCOUNT": "lab",
        "SBATCH_PARTITION": "debug",
    }
    kept = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf"}
    assert client_environment(outer).keys() == kept.keys() | {"CUDA_VISIBLE_DEVICES", "PMIX_RANK", "RANK"}
    assert job_environment(outer, {"partition"}) == {**kept, "SBATCH_ACCOUNT": "lab"}
    alone = {"CUDA_VISIBLE_DEVICES": "0", "PATH": "/bin"}
    assert job_environment(alone, ()) == alone, "a choice of the user's own"
