"""A real Slurm: jobs finish, come back after preemption, time limits and lost nodes, and leave nothing behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.cluster.job import JobSpec, JobState, JobStatus, Task
from launch.cluster.slurm.backend import SlurmBackend
from tests.cluster.slurm import Slurm, wait_until
from trainer.contract.attempts import attempts, claim_of
from trainer.contract.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RANK = ROOT / "tests" / "launch" / "programs" / "rank.py"
COUNTER = Path(__file__).with_name("counter.py")


@pytest.fixture
def backend(slurm: Slurm) -> SlurmBackend:
    return SlurmBackend(python=sys.executable, directory=ROOT)


def counter(tmp_path: Path, name: str, steps: int, **more: object) -> JobSpec:
    run_dir = tmp_path / name
    return JobSpec(name, (str(COUNTER), str(run_dir), str(steps), "0.1"), run_dir, **more)  # type: ignore[arg-type]


def finish(backend: SlurmBackend, job: str, seconds: float = 300) -> JobStatus:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = backend.status([job])[job]
        if status.state.final:
            return status
        time.sleep(0.5)
    raise AssertionError(f"{job} is {status} after {seconds} s")


def counted(run_dir: Path, rank: int = 0) -> list[int]:
    path = run_dir / f"done_{rank}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def begun(run_dir: Path, attempt: int) -> bool:
    log = run_dir / "logs" / str(attempt) / "rank_0.log"
    return log.exists() and "begins" in log.read_text()


def test_two_nodes_meet_and_finish(backend: SlurmBackend, tmp_path: Path) -> None:
    spec = JobSpec("two nodes", (str(RANK), "ok"), tmp_path / "run", nodes=2, environment={"OMP_NUM_THREADS": "1"})
    job = backend.submit(spec)
    assert finish(backend, job).state is JobState.DONE
    assert sorted(line for line in backend.logs(job) if "sum" in line) == ["[0] sum 1", "[1] sum 1"]


def test_an_array_runs_under_its_cap_and_names_the_failed_task(backend: SlurmBackend, tmp_path: Path) -> None:
    tasks = tuple(Task(f"cell {i}", (str(RANK), "exit", code), tmp_path / f"cell {i}") for i, code in enumerate("050"))
    job = backend.submit(JobSpec("sweep", (), tmp_path / "sweep", array=tasks, array_cap=2))
    status = finish(backend, job)
    assert (status.state, status.reason) == (JobState.FAILED, "2 of 3 done")
    each = backend.status([f"{job}_{i}" for i in range(3)])
    assert [each[f"{job}_{i}"].state for i in range(3)] == [JobState.DONE, JobState.FAILED, JobState.DONE]


def test_preemption_saves_requeues_and_resumes_at_the_step(backend: SlurmBackend, slurm: Slurm, tmp_path: Path) -> None:
    spec = counter(tmp_path, "low", 150, nodes=3, ranks_per_node=1, extras={"partition": "train"})
    job = backend.submit(spec)
    wait_until(lambda: len(counted(spec.run_dir)) > 20, 240, "the first steps")
    slurm.call("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    wait_until(lambda: begun(spec.run_dir, 2), 240, "the second attempt")
    assert finish(backend, job).state is JobState.DONE
    for rank in range(3):
        assert counted(spec.run_dir, rank) == list(range(1, 151)), "no step is lost, none is done twice"
    first = (spec.run_dir / "logs" / "1" / "rank_0.log").read_text()
    assert "saved" in first


def test_a_lost_node_sends_the_job_to_another(backend: SlurmBackend, slurm: Slurm, tmp_path: Path) -> None:
    spec = counter(tmp_path, "lost", 60)
    job = backend.submit(spec)
    wait_until(lambda: len(counted(spec.run_dir)) > 5, 240, "the first steps")
    (node,) = slurm.nodes_of(job)
    with slurm.crashed(node):
        wait_until(lambda: begun(spec.run_dir, 2), 240, "the second attempt")
        assert finish(backend, job).state is JobState.DONE
        assert counted(spec.run_dir)[-60:] == list(range(1, 61)), "nothing was saved, so it began anew and finished"
        assert slurm.nodes_of(job) != [node]


def test_a_port_that_is_taken_is_left_for_the_next(backend: SlurmBackend, slurm: Slurm, tmp_path: Path) -> None:
    before = int(slurm.call("sbatch", "--parsable", "--output=/dev/null", "--wrap=true"))
    with socket.socket() as other:
        other.bind(("", 20000 + (before + 1) * 4 % 20000))  # where the next job will want to meet
        other.listen()
        spec = counter(tmp_path, "clash", 5)
        job = backend.submit(spec)
        assert int(job) == before + 1
        assert finish(backend, job).state is JobState.DONE
    assert begun(spec.run_dir, 2) and not begun(spec.run_dir, 1), "the first try met nobody"


def test_a_chain_goes_on_after_what_is_done_and_ends_after_what_failed(backend: SlurmBackend, tmp_path: Path) -> None:
    def link(name: str, code: str, *after: str) -> str:
        return backend.submit(JobSpec(name, (str(RANK), "exit", code), tmp_path / name, after=after))

    good, bad = link("good", "0"), link("bad", "5")
    then, never = link("then", "0", good), link("never", "0", bad)
    assert finish(backend, then).state is JobState.DONE
    assert finish(backend, bad).exit_code == 5
    assert finish(backend, never).state is JobState.CANCELLED, "it would wait for ever"
    assert not (tmp_path / "never" / "logs").exists()


@pytest.mark.parametrize("asked", [{"gres": "gpu:h100:2"}, {"gpus_per_node": 2}, {"gpus_per_node": "h100:2"}], ids=str)
def test_gpus_are_those_that_were_asked_for(backend: SlurmBackend, tmp_path: Path, asked: dict) -> None:
    program = tmp_path / "seen.py"
    program.write_text("import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'])\n")
    job = backend.submit(JobSpec("gpus", (str(program),), tmp_path / "gpus", ranks_per_node=2, extras=asked))
    assert finish(backend, job).state is JobState.DONE
    assert list(backend.logs(job, rank=1)) == ["sees 0,1"]


def test_cancel_leaves_no_process(backend: SlurmBackend, slurm: Slurm, tmp_path: Path) -> None:
    spec = counter(tmp_path, "cancelled", 3000, nodes=2, ranks_per_node=2)
    job = backend.submit(spec)
    wait_until(lambda: len(counted(spec.run_dir)) > 3, 240, "the first steps")
    assert slurm.job_processes(job)
    backend.cancel(job)
    assert finish(backend, job).state is JobState.CANCELLED
    wait_until(lambda: not slurm.job_processes(job), 120, "the end of all processes")
    time.sleep(2)
    assert backend.status([job])[job].state is JobState.CANCELLED, "a cancelled job does not come back"


def test_a_failed_rank_is_named(backend: SlurmBackend, tmp_path: Path) -> None:
    spec = JobSpec("fails", (str(RANK), "fail", "1"), tmp_path / "fails", nodes=2, environment={"OMP_NUM_THREADS": "1"})
    status = finish(backend, backend.submit(spec))
    assert status.failure is not None
    assert (status.failure.rank, status.failure.exit_code) == (1, 1)
    assert status.failure.message == "RuntimeError: rank 1 was told to fail"


@pytest.mark.slow
def test_the_time_limit_saves_requeues_and_resumes_at_the_step(backend: SlurmBackend, tmp_path: Path) -> None:
    """The signal comes 75 s before the limit of 120 s or up to half a minute earlier: in the midst of 60 s of work."""
    spec = counter(tmp_path, "limited", 600, time_limit=2, extras={"signal_seconds": 75})
    job = backend.submit(spec)
    assert finish(backend, job, 400).state is JobState.DONE
    assert counted(spec.run_dir) == list(range(1, 601))
    assert (spec.run_dir / "logs" / "timeouts").read_text().split()[0] == job


def test_an_unknown_partition_names_those_that_exist(backend: SlurmBackend, tmp_path: Path) -> None:
    for begin in (backend.rehearse, backend.submit):
        with pytest.raises(UserError, match=r"no partition 'trian' \(it has: train, urgent\); nothing was submitted"):
            begin(counter(tmp_path, "x", 1, extras={"partition": "trian"}))


def test_a_rehearsal_queues_nothing_and_refuses_what_can_never_run(
    backend: SlurmBackend, slurm: Slurm, tmp_path: Path
) -> None:
    before = slurm.call("squeue", "-h", "-t", "all", "-o", "%i")
    backend.rehearse(counter(tmp_path, "fits", 1, nodes=2))
    tasks = tuple(Task(f"cell {i}", (str(RANK), "ok"), tmp_path / f"cell {i}") for i in range(3))
    backend.rehearse(JobSpec("sweep", (), tmp_path / "sweep", array=tasks))
    for asked, nodes in (({}, 4), ({"mem": "50G"}, 1), ({"gres": "gpu:h100:9"}, 1)):
        with pytest.raises(UserError, match=r"Requested node configuration is not available: .*nothing was submitted"):
            backend.rehearse(counter(tmp_path, "big", 1, nodes=nodes, extras=asked))
    with pytest.raises(UserError, match="Invalid feature specification"):
        backend.rehearse(counter(tmp_path, "odd", 1, extras={"constraint": "h200"}))
    slurm.call("scontrol", "update", "nodename=n1", "state=drain", "reason=broken")
    try:
        backend.rehearse(counter(tmp_path, "waits", 1, nodes=3))  # as a submission, which would be queued
    finally:
        slurm.call("scontrol", "update", "nodename=n1", "state=resume")
    assert slurm.call("squeue", "-h", "-t", "all", "-o", "%i") == before
    assert not list(tmp_path.iterdir())


def test_status_of_forgotten_jobs_comes_from_their_directories(backend: SlurmBackend, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "status").write_text("done\n")
    backend.adopt("999999", (tmp_path / "old",))
    assert backend.status(["999999"])["999999"].state is JobState.DONE


def test_waiting_in_vain_says_what_failed() -> None:
    def condition() -> bool:
        subprocess.run(
            ["sh", "-c", "echo the controller is away >&2; exit 3"], check=True, capture_output=True, text=True
        )
        return True

    with pytest.raises(AssertionError, match=r"(?s)in vain for nodes: .*exit status 3.* the controller is away"):
        wait_until(condition, 0.3, "nodes")


@pytest.mark.slow
def test_a_job_that_stands_still_is_requeued_twice_and_then_says_so(backend: SlurmBackend, tmp_path: Path) -> None:
    """Its ranks leave as if they were told to save, at once, on two nodes, and save nothing."""
    spec = JobSpec("still", (str(RANK), "exit", "75"), tmp_path / "still", nodes=2)
    job = backend.submit(spec)
    status = finish(backend, job, 400)
    assert (status.state, status.exit_code) == (JobState.FAILED, 78)
    assert "3 attempts in a row began at the first step and saved nothing newer: stopped" in status.reason
    claims = [claim_of(spec.run_dir, attempt) for attempt in attempts(spec.run_dir)]
    assert [(claim.job, claim.repeat) for claim in claims if claim is not None] == [(job, 0), (job, 1), (job, 2)]
    assert any("saved nothing newer" in line for line in backend.logs(job))
