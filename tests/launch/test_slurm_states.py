"""What Slurm says, read without a Slurm: states, exit codes, arrays, and the fall-back without accounting."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.backends.process import CallError, call
from launch.backends.slurm import SlurmBackend
from launch.backends.slurm_states import parse_rows
from launch.job import JobSpec, JobState
from trainer.errors import UserError

D, F, P, R, C, E = (
    JobState.DONE,
    JobState.FAILED,
    JobState.PENDING,
    JobState.RUNNING,
    JobState.CANCELLED,
    JobState.PREEMPTED,
)


@pytest.mark.parametrize(
    ("row", "state", "code", "reason"),
    [
        ("1|COMPLETED|0:0|None|n1|", D, 0, ""),
        ("1|FAILED|3:0|NonZeroExitCode|n1|", F, 3, ""),
        ("1|FAILED|75:0|None|n1|", E, 75, ""),
        ("1|CANCELLED by 1000|0:15|None|n1|", C, -15, "cancelled"),
        ("1|TIMEOUT|0:0|TimeLimit|n1|", F, 0, "timeout"),
        ("1|OUT_OF_MEMORY|0:125|None|n1|", F, -125, "out of memory"),
        ("1|NODE_FAIL|0:0|None|n1|", F, 0, "node fail"),
        ("1|PENDING|0:0|Resources||", P, None, "Resources"),
        ("1|REQUEUED|0:0|None||", P, None, "requeued"),
        ("1|RUNNING|0:0|None|n[1-2]|", R, None, "on n[1-2]"),
        ("1|COMPLETING|0:0|None|n1|", R, None, "on n1"),
        ("1|FAILED|256|None|n1|", F, 1, ""),  # squeue gives a wait status
        ("1|FAILED|19200|None|n1|", E, 75, ""),
        ("1|CANCELLED|9|None|n1|", C, -9, "cancelled"),
    ],
)
def test_rows(row: str, state: JobState, code: int | None, reason: str) -> None:
    status = parse_rows(row)["1"]
    assert (status.state, status.exit_code, status.reason) == (state, code, reason)


def backend(answers: dict[str, str | CallError]) -> SlurmBackend:
    """A backend whose Slurm answers by program name; a program that is not named must not be called."""

    def pretended(argv: list[str], stdin: str | None = None, timeout: float = 0) -> str:
        answer = answers[argv[0]]
        if isinstance(answer, CallError):
            raise answer
        return answer

    return SlurmBackend(python="python3", directory=Path("/x"), call=pretended)


def test_an_array_is_as_far_as_its_members() -> None:
    one = backend({"squeue": "7_0|COMPLETED|0|None|n1|\n7_1|RUNNING|0|None|n2|\n7_2|PENDING|0|Priority||\n"})
    assert one.status(["7"])["7"].state is R
    assert one.status(["7"])["7"].reason == "1 of 3 done"
    assert one.status(["7_2"])["7_2"].state is P


def test_accounting_is_asked_only_for_what_the_queue_forgot() -> None:
    with_queue = backend({"squeue": "7|RUNNING|0|None|n1|\n"})
    assert with_queue.status(["7"])["7"].state is R
    both = backend({"squeue": "7|RUNNING|0|None|n1|\n", "sacct": "6|COMPLETED|0:0|None|n1\n"})
    assert [both.status(["6", "7"])[i].state for i in ("6", "7")] == [D, R]


def test_without_accounting_the_run_directory_knows(tmp_path: Path) -> None:
    gone = backend({"squeue": "", "sacct": CallError("sacct failed", "Slurm accounting storage is disabled")})
    for word, state in (("done", D), ("failed", F), ("preempted", E), ("diverged", F)):
        (tmp_path / "status").write_text(word + "\n")
        gone.adopt("5", (tmp_path,))
        assert gone.status(["5"])["5"].state is state
    with pytest.raises(UserError, match="Slurm does not know job 6"):
        gone.status(["6"])
    (tmp_path / "status").unlink()
    assert gone.status(["5"])["5"].state is C, "a member of an array that was cancelled while it waited leaves nothing"


def test_a_job_that_the_controller_lost_is_reported(tmp_path: Path) -> None:
    lost = backend({"sbatch": "12\n", "scontrol": CallError("scontrol failed", "Invalid job id specified")})
    with pytest.raises(UserError, match="gave the id 12, but the controller does not know it"):
        lost.submit(JobSpec("x", ("-m", "y"), tmp_path / "x"))


def test_a_missing_sbatch_says_where_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"sbatch is not installed.*login node"):
        call(["sbatch"])


def test_a_silent_controller_is_not_waited_for() -> None:
    with pytest.raises(UserError, match="gave no answer within 0 s"):
        call(["sleep", "5"], timeout=0.1)


def test_a_job_without_accounting_or_directory_of_an_array_names_its_tasks(tmp_path: Path) -> None:
    one = backend({})
    one.adopt("9", (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(UserError, match="job 9 is an array of 2: name a task, 9_0 to 9_1"):
        list(one.logs("9"))
