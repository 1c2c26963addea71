"""The rank that began it is blamed, not the one whose error was heard first."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.cluster.job import JobSpec, JobState
from launch.cluster.local.backend import LocalBackend
from launch.cluster.logs import first_failure as first_of
from tests.launch.test_local import RANK, finish, until_log
from trainer.node.error_files import endings, write_error
from trainer.node.failure import error_line, oom_kills, why_ended
from trainer.node.first_failure import Ending, first_failure, is_consequence

ROOT = Path(__file__).resolve().parents[2]

# Each as torch 2.13 or DeepSpeed prints it; those of NCCL are from torch's and NCCL's sources.
CONSEQUENCES = [
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:9",
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Read error [::1]:3: Connection reset by peer",
    "RuntimeError: [.../unbound_buffer.cc:84] Timed out waiting 30000ms for recv operation to complete",
    "RuntimeError: Gloo connectFullMesh failed with [.../pair.cc:144] no error",
    "torch.distributed.DistNetworkError: Failed to recv, got 0 bytes. Connection was likely closed.",
    "torch.distributed.DistStoreError: Timed out after 61 seconds waiting for clients. 1/2 clients joined.",
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3384, remote process exited or there was "
    "a network error, NCCL version 2.21.5",
    "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE) ran for 600000 ms",
    "RuntimeError: Rank 1 failed to pass monitoredBarrier in 30000 ms",
    "torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection to the C10d store has failed.",
    "BrokenPipeError: [Errno 32] Broken pipe",
]
CAUSES = [
    "RuntimeError: rank 1 was told to fail",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "OSError: [Errno 28] No space left on device",
    "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: "
    "29400, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
    "ModuleNotFoundError: No module named 'flash_attn'",
    "watchdog: no step finished for 600 s, ending this rank; its threads:",
    "error: tensor 3 does not divide 4 heads",
    "",
]


@pytest.mark.parametrize("message", CONSEQUENCES)
def test_what_a_peer_says_is_a_consequence(message: str) -> None:
    assert is_consequence(message)


@pytest.mark.parametrize("message", CAUSES)
def test_what_a_rank_says_of_itself_is_a_cause(message: str) -> None:
    assert not is_consequence(message)


@given(st.permutations(range(4)), st.sampled_from(CONSEQUENCES), st.sampled_from(CAUSES))
def test_the_cause_is_found_in_whatever_order_the_ends_are_heard(order: list[int], said: str, cause: str) -> None:
    endings = [
        Ending(0, "a", 1, float(order[0]), said),
        Ending(1, "b", -9, float(order[1]), cause),
        Ending(2, "b", 75, float(order[2])),
        Ending(3, "c", -15, float(order[3]), told=True),
    ]
    first = first_failure(endings)
    assert first is not None and first.rank == 1


def test_the_time_decides_among_causes_and_among_consequences() -> None:
    for messages in ((CAUSES[0], CAUSES[1]), (CONSEQUENCES[0], CONSEQUENCES[1])):
        first = first_failure([Ending(0, "a", 1, 2.0, messages[0]), Ending(1, "a", 1, 1.0, messages[1])])
        assert first is not None and first.rank == 1
    assert first_failure([Ending(0, "a", 0, 1.0)]) is None


def test_the_failures_of_two_hosts_are_weighed_too(tmp_path: Path) -> None:
    rows = [Ending(1, "b", 1, 1.0, CONSEQUENCES[0]), Ending(0, "a", -9, 2.0, "killed")]
    for row in rows:
        (tmp_path / f"failure_{row.host}.json").write_text(json.dumps({**row.__dict__, "signal": None}))
    for number, damaged in enumerate(("", "[]", "{}", '{"rank": 1}')):
        (tmp_path / f"failure_damaged{number}.json").write_text(damaged)
    found = first_of(tmp_path)
    assert found is not None and (found.rank, found.host, found.signal) == (0, "a", "SIGKILL")


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", ["reduce", "sleep"])
def test_a_killed_rank_is_named_and_not_the_one_that_lost_it(tmp_path: Path, victim: int, how: str) -> None:
    """kill -9 under a real torchrun: the peer in an all-reduce ends by a reset connection, else by torchrun."""
    words = ["-m", "trainer.node.agent", "--run-dir", str(tmp_path), "--ranks", "2", "--rendezvous", "127.0.0.1:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [str(RANK), how]
    agent = subprocess.Popen(
        [sys.executable, *words, "--", *program], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    try:
        logs = [tmp_path / "logs" / "1" / f"rank_{rank}.log" for rank in (0, 1)]
        deadline = time.monotonic() + 120
        while not all(log.exists() and "ready" in log.read_text() for log in logs):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(int(logs[victim].read_text().split("ready ")[1].split()[0]), 9)
        said, _ = agent.communicate(timeout=120)
    finally:
        agent.kill()
    assert agent.returncode == 1
    assert said.startswith(f"rank {victim} on ") and "SIGKILL" in said
    found = first_of(tmp_path / "logs" / "1")
    assert found is not None and (found.rank, found.signal) == (victim, "SIGKILL")
    assert "killed from outside" in found.message or "out of memory" in found.message


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_warm_rank_is_named(tmp_path: Path, victim: int) -> None:
    with LocalBackend(2, preload=("torch", "torch.distributed"), log=tmp_path / "server.log") as backend:
        job = backend.submit(JobSpec("j", (str(RANK), "reduce"), tmp_path / "run", ranks_per_node=2))
        until_log(backend, job, "ready", 2)
        line = next(line for line in backend.logs(job, victim) if "ready" in line)
        os.kill(int(line.split()[1]), 9)
        (status,) = finish(backend, job)
    assert status.state is JobState.FAILED and status.failure is not None
    assert (status.failure.rank, status.failure.signal, status.exit_code) == (victim, "SIGKILL", -9)


def test_the_error_files_of_torchrun_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the newest restart, in torch's own format; and what torchrun saw of ranks that left none."""
    for restart, ranks in ((0, (0, 1)), (1, (0, 1, 2))):
        for local in ranks:
            place = tmp_path / "id_x" / f"attempt_{restart}" / str(local)
            place.mkdir(parents=True)
            monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(place / "error.json"))
            if (restart, local) != (1, 1):
                write_error(4 + local, 3 + restart, f"Traceback\nValueError: {restart} of {local}\n")
    seen = [{"rank": 5, "host": "h", "code": -9, "time": 9.0}, {"rank": 4, "host": "h", "code": 1, "time": 9.0}]
    (tmp_path / "ends.json").write_text(json.dumps(seen))
    found = {ending.rank: ending for ending in endings(tmp_path)}
    assert {rank: ending.code for rank, ending in found.items()} == {4: 4, 5: -9, 6: 4}
    assert found[6].message == "ValueError: 1 of 2" and found[5].message == ""
    errors = pytest.importorskip("torch.distributed.elastic.multiprocessing.errors")
    theirs = errors.ProcessFailure(2, 1, 4, str(place / "error.json"))
    assert theirs.message["message"] == "ValueError: 1 of 2" and theirs.timestamp == int(found[6].time)
    (place / "error.json").write_text("")
    assert {ending.rank for ending in endings(tmp_path)} == {4, 5}
    assert endings(tmp_path / "nothing") == []


def test_what_cpp_threw_is_the_reason_of_an_abort() -> None:
    text = f"terminate called after throwing an instance of 'c10::DistBackendError'\n  what():  {CONSEQUENCES[7]}\n"
    assert error_line(f"{text}Fatal Python error: Aborted\n\nThread 0x1 (most recent call first):\n") == CONSEQUENCES[7]
    assert error_line("Fatal Python error: Aborted\n") == "Fatal Python error: Aborted"


def test_a_line_of_a_log_is_plain() -> None:
    assert error_line("\x1b[31mValueError: [/x] \x1b[1mno\x1b[0m\n\x1b[0m") == "ValueError: [/x] no"


def test_a_hang_that_the_watchdog_ended_is_the_reason() -> None:
    text = (
        'watchdog: no step finished for 600 s, ending this rank; its threads:\nThread 1\n  File "x.py", line 3 in f\n'
    )
    assert error_line(text).startswith("watchdog: no step finished for 600 s")


@pytest.mark.parametrize(("kills", "word"), [(1, "out of memory"), (0, "killed from outside"), (None, "from outside")])
def test_a_kill_says_what_it_may_mean(tmp_path: Path, kills: int | None, word: str) -> None:
    (tmp_path / "log").write_text("step 3\n")
    message = why_ended(tmp_path / "log", -9, oom_kills=kills)
    assert word in message and message.endswith("its last line: step 3")
    assert why_ended(tmp_path / "log", 1, oom_kills=kills) == "step 3"


@pytest.mark.parametrize(
    ("own", "file", "text"),
    [
        ("0::/job/step\n", "job/step/memory.events", "low 0\noom 2\noom_kill 3\n"),
        ("4:memory:/job\n0::/\n", "memory/job/memory.oom_control", "under_oom 0\noom_kill 3\n"),
        ("4:cpu,memory:/elsewhere\n0::/\n", "memory/memory.oom_control", "oom_kill 3\n"),
    ],
)
def test_kills_of_a_control_group_are_counted(tmp_path: Path, own: str, file: str, text: str) -> None:
    (tmp_path / "own").write_text(own)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert oom_kills(tmp_path, tmp_path / "own") == 3
    assert oom_kills(tmp_path / "nothing", tmp_path / "own") is None


def test_all_orders_of_two_hosts_agree() -> None:
    rows = [Ending(0, "a", 1, 1.0, CONSEQUENCES[0]), Ending(1, "a", 1, 1.0, CONSEQUENCES[1]), Ending(2, "b", 2, 3.0)]
    assert {first_failure(order).rank for order in itertools.permutations(rows)} == {2}  # type: ignore[union-attr]


MEMORY = Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(not os.access(MEMORY / "cgroup.procs", os.W_OK), reason="no control group of memory to write to")
def test_a_rank_that_the_kernel_ended_for_want_of_memory_is_told_apart(tmp_path: Path) -> None:
    group = MEMORY / f"escala-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(900 << 20))
        words = ["-m", "trainer.node.agent", "--run-dir", str(tmp_path), "--rendezvous", "127.0.0.1:0", "--"]
        program = [str(RANK.with_name("planted.py")), "oom", "0", str(tmp_path)]
        agent = subprocess.Popen(
            [sys.executable, *words, *program],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: (group / "cgroup.procs").write_text("0"),
        )
        said, _ = agent.communicate(timeout=180)
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):  # its last process is being taken down
                group.rmdir()
                break
            time.sleep(0.1)
    assert "signal SIGKILL: out of memory: the kernel killed it" in said
