"""What Slurm says, read without a Slurm: states, exit codes, arrays, and the fall-back without accounting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from launch.cluster.job import JobIdentity, JobSpec, JobState
from launch.cluster.process import CallError, call
from launch.cluster.slurm.backend import SlurmBackend
from launch.cluster.slurm.queue import user_name
from launch.cluster.slurm.states import parse_rows
from trainer.contract.attempts import claim_attempt
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status
from trainer.node.first_failure import Ending

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
        ("1|CANCELLED|0|DependencyNeverSatisfied||", C, 0, "cancelled (DependencyNeverSatisfied)"),
    ],
)
def test_rows(row: str, state: JobState, code: int | None, reason: str) -> None:
    status = parse_rows(row)["1"].status
    assert (status.state, status.exit_code, status.reason) == (state, code, reason)


def backend(answers: dict[str, str | CallError]) -> SlurmBackend:
    """A backend whose Slurm answers by program name; a program that is not named must not be called."""

    def pretended(argv: list[str], stdin: str | None = None, timeout: float = 0, env: object = None) -> str:
        answer = answers[" ".join(argv[:3])] if " ".join(argv[:3]) in answers else answers[argv[0]]
        if isinstance(answer, CallError):
            raise answer
        return answer

    return SlurmBackend(python="python3", directory=Path("/x"), call=pretended)


CONFIG = "ClusterName             = lab\nMaxArraySize            = 4\nPrivateData             = none\n"
NO_ACCOUNTING = CallError("sacct failed", "Slurm accounting storage is disabled")
MINE = JobIdentity("lab", user_name(), "tiny", "/runs/tiny")
HERS = replace(MINE, user="ada")


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
    gone = backend({"squeue": "", "sacct": NO_ACCOUNTING, "scontrol show config": CONFIG})
    gone.adopt("5", (tmp_path,), MINE)
    for word, state in (("done", D), ("failed", F), ("preempted", E), ("diverged", F), ("running", F)):
        (tmp_path / "status").write_text(word + "\n")
        assert gone.status(["5"])["5"].state is state
    with pytest.raises(UserError, match="Slurm does not know job 6"):
        gone.status(["6"])
    (tmp_path / "status").unlink()
    assert gone.status(["5"])["5"].state is C, "a member of an array that was cancelled while it waited leaves nothing"


def test_a_failure_keeps_its_cause_when_the_scheduler_has_forgotten_it(tmp_path: Path) -> None:
    gone = backend({"squeue": "", "sacct": NO_ACCOUNTING, "scontrol show config": CONFIG})
    gone.adopt("5", (tmp_path,), MINE)
    run_dir = RunDir(tmp_path)
    run_dir.write_status(Status.FAILED)
    run_dir.record_event("failed", error="the loss could not be written: disk full")
    assert gone.status(["5"])["5"].reason.endswith("disk full")
    (tmp_path / "slurm-5.out").write_text("setup failed with code 1: module load cuda\n")
    assert "setup failed with code 1: module load cuda (see " in gone.status(["5"])["5"].reason
    claim_attempt(tmp_path, "5")
    Ending(3, "n2", -9, 1.0, "killed").write(run_dir.logs(1))
    status = gone.status(["5"])["5"]
    assert status.failure is not None and (status.failure.rank, status.failure.host) == (3, "n2")


def test_a_job_that_the_controller_lost_is_reported(tmp_path: Path) -> None:
    invalid = CallError("scontrol failed", "Invalid job id specified")
    lost = backend({"sbatch": "12\n", "scontrol": invalid, "scontrol -o show": invalid})
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


def row(
    state: str = "RUNNING", user: str = MINE.user, name: str = "tiny", stdout: str = "/runs/tiny/slurm-5.out"
) -> str:
    return f"5|{state}|0|None|n1|{user}|{name}|{stdout}|\n"


def test_the_job_of_another_user_is_seen(tmp_path: Path) -> None:
    hers = backend({"squeue": row(user="ada"), "scontrol show config": CONFIG})
    hers.adopt("5", (tmp_path,), HERS)
    assert hers.status(["5"])["5"].state is R


@pytest.mark.parametrize(
    "other",
    [row(user="bob"), row(name="other"), row(stdout="/elsewhere/tiny/slurm-5.out")],
    ids=["user", "name", "place"],
)
def test_a_job_that_got_an_id_later_is_not_taken_for_ours(tmp_path: Path, other: str) -> None:
    again = backend({"squeue": other, "sacct": NO_ACCOUNTING, "scontrol show config": CONFIG})
    again.adopt("5", (tmp_path,), MINE)
    (tmp_path / "status").write_text("preempted\n")
    status = again.status(["5"])["5"]
    assert status.state is E and "the id 5 is now that of" in status.reason
    with pytest.raises(UserError, match=r"the id 5 is now that of .*Nothing was cancelled"):
        again.cancel("5")  # scancel is not among the answers: calling it would be a KeyError


@pytest.mark.parametrize("word", ["running", "pending", None])
def test_what_may_be_hidden_is_unknown(tmp_path: Path, word: str | None) -> None:
    """PrivateData=jobs hides other users' jobs; an old record and another cluster's tell nothing either."""
    if word:
        (tmp_path / "status").write_text(word + "\n")
    private = CONFIG.replace("none", "accounts,jobs")
    for identity, config in ((HERS, private), (JobIdentity(), CONFIG), (replace(MINE, site="other"), CONFIG)):
        one = backend({"squeue": "", "sacct": NO_ACCOUNTING, "scontrol show config": config})
        one.adopt("5", (tmp_path,), identity)
        assert one.status(["5"])["5"].state is JobState.UNKNOWN
        with pytest.raises(UserError, match="Nothing was cancelled"):
            one.cancel("5")
    assert not (tmp_path / "events.jsonl").exists() and (
        word is None or (tmp_path / "status").read_text() == f"{word}\n"
    )


def test_squeue_says_of_a_single_id_that_it_is_invalid(tmp_path: Path) -> None:
    invalid = CallError("squeue failed", "slurm_load_jobs error: Invalid job id specified")
    one = backend({"squeue": invalid, "sacct": NO_ACCOUNTING, "scontrol show config": CONFIG})
    one.adopt("5", (tmp_path,), MINE)
    assert one.status(["5"])["5"].state is C
    away = backend({"squeue": CallError("squeue failed", "Unable to contact slurm controller"), "scontrol": CONFIG})
    away.adopt("5", (tmp_path,), MINE)
    with pytest.raises(UserError, match="squeue failed"):
        away.status(["5"])


def test_accounting_knows_a_job_whose_id_is_taken(tmp_path: Path) -> None:
    account = f"5|COMPLETED|0:0|None|n1|{MINE.user}|tiny\n"
    one = backend({"squeue": row(name="other"), "sacct": account, "scontrol show config": CONFIG})
    one.adopt("5", (tmp_path,), MINE)
    assert one.status(["5"])["5"].state is D


def told(state: str, reason: str = "None") -> str:
    return f"5|{state}|0|{reason}|n1|{MINE.user}|tiny|/runs/tiny/slurm-5.out|\n"


def following(run_dir: Path, answers: list[tuple[str | CallError, str]]) -> list[str]:
    """Return what `logs -f` shows while squeue gives these answers; before each, the batch script does one thing."""
    remaining = iter(answers)

    def pretended(argv: list[str], **_: object) -> str:
        if argv[0] == "scontrol":
            return CONFIG
        answer, does = next(remaining)
        if does == "attempt":
            number = claim_attempt(run_dir, "5").attempt
            (run_dir / "logs" / str(number) / "rank_0.log").write_text(f"attempt {number} begins\n")
        elif does:
            (run_dir / "slurm-5.out").write_text(f"{does}\nsrun: error: n1: task 0: Exited with exit code 2\n")
        if isinstance(answer, CallError):
            raise answer
        return answer

    one = SlurmBackend(python="python3", directory=Path("/x"), call=pretended, pause=lambda seconds: None)
    one.adopt("5", (run_dir,), MINE)
    return list(one.logs("5", rank=0, follow=True))


AWAY = CallError("squeue failed with code 1: Unable to contact slurm controller", "Unable to contact slurm controller")


def test_following_begins_before_the_job_and_outlives_a_silent_controller(tmp_path: Path) -> None:
    """What an earlier job of the run printed is not shown again."""
    claim_attempt(tmp_path, "4")
    (tmp_path / "logs" / "1" / "rank_0.log").write_text("an older job\n")
    waits = told("PENDING", "Priority")
    answers = [
        (waits, ""),
        (AWAY, ""),
        (waits, ""),
        (told("RUNNING"), "attempt"),
        (AWAY, ""),
        (told("COMPLETED"), ""),
    ]
    shown = following(tmp_path, answers)  # type: ignore[arg-type]
    away = "job 5 is unknown: squeue failed with code 1: Unable to contact slurm controller"
    pending = "job 5 is pending: Priority"
    assert shown == [pending, away, pending, "attempt 2 begins", "job 5 is running: on n1", away]


def test_following_a_job_that_ends_before_its_ranks_shows_why(tmp_path: Path) -> None:
    error = "slurmstepd-n1: error: execve(): /no/python: No such file or directory"
    shown = following(tmp_path, [(told("PENDING", "Priority"), ""), (told("FAILED").replace("|0|", "|512|"), error)])
    assert shown[0] == "job 5 is pending: Priority" and error in shown[1:3]
    assert shown[-1] == f"job 5 is failed: {error} (see {tmp_path}/slurm-5.out)"
    one = backend({"squeue": told("FAILED").replace("|0|", "|512|"), "scontrol": CONFIG})
    one.adopt("5", (tmp_path,), MINE)
    assert next(iter(one.logs("5"))) == error
    status = one.status(["5"])["5"]
    assert (status.state, status.exit_code) == (F, 2) and status.reason == f"{error} (see {tmp_path}/slurm-5.out)"


def test_who_is_waited_for_is_told_while_it_runs(tmp_path: Path) -> None:
    claim_attempt(tmp_path, "5")
    (tmp_path / "logs" / "1" / "waiting.json").write_text('{"missing": "h3"}\n')
    one = backend({"squeue": told("RUNNING"), "scontrol": CONFIG})
    one.adopt("5", (tmp_path,), MINE)
    assert one.status(["5"])["5"].reason == "on n1, waits for h3"
