"""The local backend: packing, warm ranks, the first failing rank, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.cluster.job import JobSpec, JobState, JobStatus, Requeue
from launch.cluster.local.backend import LocalBackend
from launch.cluster.local.warm import RankPool
from trainer.contract.errors import UserError
from trainer.node.failure import last_error_line, port_was_taken, signal_name

RANK = Path(__file__).parent / "programs" / "rank.py"
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds: importing torch takes one of them on an idle machine, and a minute on a crowded one


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    log = tmp_path_factory.mktemp("pool") / "rank_server.log"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with LocalBackend(4, environment, preload=("torch", "torch.distributed"), log=log) as opened:
        yield opened


def finish(backend: LocalBackend, *ids: str) -> list[JobStatus]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = backend.status(ids)
        if all(status.state.final for status in found.values()):
            return list(found.values())
        backend.wait(0.1)
    raise AssertionError(f"not finished: {found}")


def until_log(backend: LocalBackend, job: str, word: str, ranks: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        backend.status([job])
        if sum(word in line for line in backend.logs(job)) == ranks:
            return
        backend.wait(0.1)
    raise AssertionError(f"{word!r} not logged: {list(backend.logs(job))}")


def spec(tmp_path: Path, *arguments: str, ranks: int = 1, **more: object) -> JobSpec:
    name = str(more.pop("name", "job"))
    return JobSpec(name, (str(RANK), *arguments), tmp_path / name, ranks_per_node=ranks, **more)  # type: ignore[arg-type]


def test_jobs_are_packed_and_done(backend: LocalBackend, tmp_path: Path) -> None:
    jobs = [backend.submit(spec(tmp_path, "ok", ranks=2, name=f"job{i}")) for i in range(4)]
    waiting = [s.state for s in backend.status(jobs).values()]
    assert waiting.count(JobState.RUNNING) <= 2, "four slots hold two jobs of two ranks"
    assert [s.state for s in finish(backend, *jobs)] == [JobState.DONE] * 4
    assert list(backend.logs(jobs[0])) == ["[0] sum 1", "[1] sum 1"]
    assert list(backend.logs(jobs[0], rank=1)) == ["sum 1"]


def test_the_first_failing_rank_is_named_and_its_peers_end(backend: LocalBackend, tmp_path: Path) -> None:
    job = backend.submit(spec(tmp_path, "fail", "1", ranks=2))
    (status,) = finish(backend, job)
    assert status.state is JobState.FAILED and status.failure is not None
    assert (status.failure.rank, status.failure.exit_code) == (1, 1)
    assert status.failure.message == "RuntimeError: rank 1 was told to fail"
    ready = next(line for line in backend.logs(job, rank=0) if line.startswith("ready"))
    assert not Path(f"/proc/{ready.split()[1]}").exists()


def test_a_signal_is_named(backend: LocalBackend, tmp_path: Path) -> None:
    (status,) = finish(backend, backend.submit(spec(tmp_path, "die", "0", ranks=2)))
    assert status.failure is not None and status.failure.signal == "SIGSEGV"
    assert "Segmentation fault" in status.failure.message


def test_exit_codes_become_states(backend: LocalBackend, tmp_path: Path) -> None:
    jobs = [backend.submit(spec(tmp_path, "exit", code, name=code)) for code in ("75", "76", "2", "0")]
    states = [(s.state, s.exit_code) for s in finish(backend, *jobs)]
    assert states == [(JobState.PREEMPTED, 75), (JobState.FAILED, 76), (JobState.FAILED, 2), (JobState.DONE, 0)]


def test_cancel_lets_ranks_save(backend: LocalBackend, tmp_path: Path) -> None:
    job = backend.submit(spec(tmp_path, "save", ranks=2))
    until_log(backend, job, "ready", 2)
    backend.cancel(job)
    (status,) = finish(backend, job)
    assert status.state is JobState.CANCELLED
    assert sum("saved" in line for line in backend.logs(job)) == 2


def test_a_failed_job_starts_again_as_often_as_asked(backend: LocalBackend, tmp_path: Path) -> None:
    job = backend.submit(spec(tmp_path, "exit", "3", requeue=Requeue(on_failure=2)))
    (status,) = finish(backend, job)
    assert status.state is JobState.FAILED
    assert sorted(p.name for p in (tmp_path / "job" / "logs").iterdir()) == ["1", "2", "3"]


def test_failures_at_one_checkpoint_are_repeated_twice_however_often_is_asked(
    backend: LocalBackend, tmp_path: Path
) -> None:
    job = backend.submit(spec(tmp_path, "exit", "3", requeue=Requeue(on_failure=9)))
    (status,) = finish(backend, job)
    assert (status.state, status.exit_code) == (JobState.FAILED, 3)
    assert status.reason.startswith("rank 0 on ") and "; 3 attempts in a row began at the first step" in status.reason
    assert sorted(p.name for p in (tmp_path / "job" / "logs").iterdir()) == ["1", "2", "3"]


def test_a_chain_stops_at_its_failed_link(backend: LocalBackend, tmp_path: Path) -> None:
    first = backend.submit(spec(tmp_path, "exit", "3", name="first"))
    second = backend.submit(spec(tmp_path, "exit", "0", name="second", after=(first,)))
    third = backend.submit(spec(tmp_path, "exit", "0", name="third", after=(second,)))
    last = finish(backend, first, second, third)[-1]
    assert last.state is JobState.FAILED and second in last.reason
    assert not (tmp_path / "second").exists()


def test_environment_and_threads_reach_the_rank(backend: LocalBackend, tmp_path: Path) -> None:
    code = "import os, torch; print(os.environ['RANK'], os.environ['ODD'], torch.get_num_threads())"
    program = tmp_path / "show.py"
    program.write_text(code)
    odd = "a b$(touch x)\"'\n;é"
    job = backend.submit(JobSpec("env", (str(program),), tmp_path / "env", environment={"ODD": odd}))
    finish(backend, job)
    threads = max(1, len(os.sched_getaffinity(0)) // 4)
    assert "\n".join(backend.logs(job, rank=0)) == f"0 {odd} {threads}"


def test_follow_yields_every_line_once(backend: LocalBackend, tmp_path: Path) -> None:
    job = backend.submit(spec(tmp_path, "ok", ranks=2))
    assert sorted(backend.logs(job, follow=True)) == ["[0] sum 1", "[1] sum 1"]


def test_more_ranks_than_slots_is_refused_with_the_numbers(backend: LocalBackend, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs 6 ranks \(2 nodes x 3\), but there are 4 slots"):
        backend.submit(spec(tmp_path, "ok", ranks=3, nodes=2))


def test_a_rank_that_ends_just_after_the_server_looked_is_reported() -> None:
    """Two ranks that end at once: the wake-up of the second must not be taken for that of the first."""
    ours, theirs = socket.socketpair()
    program = str(Path(__file__).parent / "programs" / "unlucky_server.py")
    with ours, theirs:
        server = subprocess.Popen([sys.executable, program, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        try:
            theirs.close()
            ours.settimeout(PATIENCE)
            ours.sendall(b'{"start": "a"}\n')
            said = b""
            while b"started" not in said:
                said += ours.recv(4096)
            ours.sendall(b'{"signal": "nobody", "number": 0}\n')  # has the server look
            while b"exited" not in said:
                said += ours.recv(4096)
            assert json.loads(said.splitlines()[-1]) == {"exited": "a", "code": -signal.SIGKILL}
        finally:
            server.kill()
            server.wait()


def test_the_server_is_single_threaded_after_its_imports(tmp_path: Path) -> None:
    pool = RankPool({**os.environ, "DS_ACCELERATOR": "cpu"}, tmp_path / "log", preload=("torch", "deepspeed"))
    pool.start()
    (ready,) = pool.events(PATIENCE)
    pool.close()
    assert ready["threads"] == 1, "a fork would copy the locks of other threads"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_stays_behind_when_the_owner_dies(tmp_path: Path, number: signal.Signals) -> None:
    owner = f"""
import sys
from pathlib import Path
from launch.cluster.local.backend import LocalBackend
from launch.cluster.job import JobSpec
with LocalBackend(2, preload=("torch",)) as b:
    job = b.submit(JobSpec("j", ({str(RANK)!r}, "sleep"), Path({str(tmp_path / "run")!r}), ranks_per_node=2))
    while True:
        b.wait(0.1)
"""
    process = subprocess.Popen([sys.executable, "-c", owner], cwd=ROOT, stderr=subprocess.DEVNULL)
    logs = [tmp_path / "run" / "logs" / "1" / f"rank_{r}.log" for r in (0, 1)]
    pids = wait_for(
        lambda: [int(x.read_text().split("ready ")[1]) for x in logs if x.exists() and "ready" in x.read_text()], 2
    )
    parents = [int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[1]) for pid in pids]
    process.send_signal(number)
    process.wait(PATIENCE)
    gone = wait_for(lambda: [pid for pid in {*pids, *parents} if not alive(pid)], 3)
    assert set(gone) == {*pids, *parents}


def wait_for(found: object, count: int) -> list[int]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        values: list[int] = found()  # type: ignore[operator]
        if len(values) == count:
            return values
        time.sleep(0.05)
    raise AssertionError(f"waited for {count}, have {values}")


def alive(pid: int) -> bool:
    """Zombies that nobody reaped yet have ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("step 1\n[rank1]: ValueError: no\nclosing\n", "ValueError: no"),
        ("error: `tensor` 3 does not divide 4 heads\n", "error: `tensor` 3 does not divide 4 heads"),
        ("Killed\n\n", "Killed"),
        ("", ""),
    ],
)
def test_last_error_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "log").write_text(text)
    assert last_error_line(tmp_path / "log") == line


def test_a_taken_port_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("The server socket has failed to listen (errno: 98 - Address already in use).")
    assert port_was_taken(tmp_path / "log")
    assert not port_was_taken(tmp_path / "absent")


@pytest.mark.parametrize(("code", "name"), [(-9, "SIGKILL"), (137, "SIGKILL"), (1, None), (75, None), (128, None)])
def test_signal_names(code: int, name: str | None) -> None:
    assert signal_name(code) == name


SHOW = """
import os, signal, sys, time
print("devices", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
if sys.argv[1] == "fail" and os.environ["RANK"] == "1":
    sys.exit(3)
time.sleep(float(sys.argv[2]))
"""


def test_with_gpus_each_job_has_its_own_devices_and_processes(tmp_path: Path) -> None:
    """The GPUs are names in a variable here; the processes are real."""
    program = tmp_path / "show.py"
    program.write_text(SHOW)

    def job(name: str, ranks: int, *arguments: str) -> JobSpec:
        return JobSpec(name, (str(program), *arguments), tmp_path / name, ranks_per_node=ranks)

    with LocalBackend(4, {**os.environ, "CUDA_VISIBLE_DEVICES": "4,5,6,7"}) as gpus:
        first, second = gpus.submit(job("a", 2, "sleep", "1")), gpus.submit(job("b", 1, "sleep", "1"))
        third = gpus.submit(job("c", 2, "fail", "60"))
        states = [s.state for s in finish(gpus, first, second, third)]
        assert states == [JobState.DONE, JobState.DONE, JobState.FAILED]
        assert list(gpus.logs(first)) == ["[0] devices 4,5", "[1] devices 4,5"]
        assert list(gpus.logs(second)) == ["[0] devices 6"]
        assert gpus.status([third])[third].failure is not None
        assert gpus.status([third])[third].failure.rank == 1  # type: ignore[union-attr]
    with pytest.raises(UserError, match="8 ranks at a time, but this machine has 4 GPUs"):
        LocalBackend(8, {**os.environ, "CUDA_VISIBLE_DEVICES": "4,5,6,7"})
