"""Real SSH hosts in namespaces: runs finish, a cut cable is named and healed from, nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from launch.cluster.driven import told
from launch.cluster.job import JobState
from tests.cluster.hosts import Hosts
from tests.cluster.slurm import wait_until

ROOT = Path(__file__).resolve().parents[2]
RANK = ROOT / "tests" / "launch" / "programs" / "rank.py"
COUNTER = Path(__file__).with_name("counter.py")
DRIVER = Path(__file__).with_name("ssh_driver.py")
ATTEND = Path(__file__).with_name("attend.py")


def drive(
    network: Hosts, run_dir: Path, *command: str, directory: Path = ROOT, **options: object
) -> subprocess.Popen[str]:
    """Start the driver on h1; it prints what it says, and at the end one JSON line."""
    order = {"run_dir": str(run_dir), "command": list(command), "directory": str(directory)}
    order |= {"options": {"hosts": network.names, **options}}
    words = network.command("h1", sys.executable, str(DRIVER), json.dumps(order))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(driver: subprocess.Popen[str], seconds: float = 300) -> tuple[str, dict]:
    out, _ = driver.communicate(timeout=seconds)
    return out, json.loads(out.strip().splitlines()[-1])


def steps(run_dir: Path, rank: int) -> list[int]:
    path = run_dir / f"done_{rank}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def stands(run_dir: Path) -> JobState | None:
    """How the driver says that the job stands, as `escala jobs` reads it."""
    known = told(run_dir)
    return None if known is None else known.status.state


def test_two_hosts_meet_and_finish(hosts: Hosts, tmp_path: Path) -> None:
    out, status = ended(drive(hosts, tmp_path / "run", str(RANK), "ok"))
    assert status["state"] == "done", out
    assert "[0] sum 1" in out and "[1] sum 1" in out


@pytest.mark.skipif(shutil.which("rsync") is None, reason="not installed: rsync")
def test_code_is_copied_when_asked_for(hosts: Hosts, tmp_path: Path) -> None:
    there = tmp_path / "far" / "copy"
    program = str(RANK.relative_to(ROOT))  # below the directory that does not exist yet
    out, status = ended(drive(hosts, tmp_path / "run", program, "ok", directory=there, sync=True))
    assert status.get("state") == "done", out
    assert (there / "trainer/data/order/order.py").exists() and not (there / ".git").exists()


@pytest.mark.parametrize(("how", "word"), [("fail", "was told to fail"), ("die", "signal SIGSEGV")])
def test_a_failed_rank_is_named_with_its_host(hosts: Hosts, tmp_path: Path, how: str, word: str) -> None:
    _, status = ended(drive(hosts, tmp_path / "run", str(RANK), how, "1"))
    assert status["state"] == "failed", "its peers were asked to stop, but that makes it no preemption"
    assert status["reason"].startswith("rank 1 on h") and word in status["reason"]


def test_a_cut_cable_is_reported_and_the_run_goes_on_when_it_is_back(hosts: Hosts, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    driver = drive(hosts, run_dir, str(COUNTER), str(run_dir), "150", "0.1", lost_after=6)
    wait_until(lambda: len(steps(run_dir, 0)) > 5 and len(steps(run_dir, 1)) > 5, 240, "the first steps")
    hosts.cut("h2")
    began = time.monotonic()
    try:
        said = ""
        for line in driver.stdout or ():
            said += line
            if "was lost" in line:
                break
        assert "h2 was lost" in said
        wait_until(lambda: stands(run_dir) == JobState.PENDING, 60, "the driver to wait for the host")
        known = told(run_dir)
        assert known is not None and known.status.reason.startswith("h2 was lost: "), "other processes hear of it"
        assert time.monotonic() - began < 20, "named within lost_after and one round of polling"
        wait_until(lambda: not hosts.processes("h2", str(COUNTER)), 120, "the stranded ranks to end")
    finally:
        hosts.heal("h2")
    out, status = ended(driver, 300)
    assert status["state"] == "done", out
    assert "all hosts are back" in out
    for rank in (0, 1):
        assert steps(run_dir, rank)[-1] == 150


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_remote_process_outlives_the_driver(hosts: Hosts, tmp_path: Path, number: signal.Signals) -> None:
    run_dir = tmp_path / "run"
    driver = drive(hosts, run_dir, str(COUNTER), str(run_dir), "3000", "0.1", lost_after=6)
    wait_until(lambda: len(steps(run_dir, 0)) > 3 and len(steps(run_dir, 1)) > 3, 240, "the first steps")
    (pid,) = (pid for pid, line in hosts.processes("h1", str(DRIVER)).items() if line.startswith(sys.executable))
    os.kill(pid, number)
    driver.wait(60)
    for host in hosts.names:
        wait_until(lambda h=host: not hosts.processes(h, "trainer."), 120, f"the end of all processes on {host}")
    if number is signal.SIGINT:
        assert (run_dir / "step_0").exists() and (run_dir / "step_1").exists(), "Ctrl-C lets ranks save"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hosts": ["h1", "h9"]}, "h9 cannot be reached"),
        ({"hosts": ["h1", "192.0.2.77"]}, "192.0.2.77"),
        ({"key": "/etc/hostname", "ssh_config": "/dev/null"}, "refused the key"),
    ],
)
def test_hosts_that_cannot_take_part_are_named_before_the_start(
    hosts: Hosts, tmp_path: Path, options: dict, message: str
) -> None:
    if "key" in options:
        wrong = tmp_path / "wrong"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(wrong)], check=True)
        config = tmp_path / "ssh_config"
        config.write_text(f"Host *\n  IdentitiesOnly yes\n  IdentityFile {wrong}\n")
        options = {"key": str(wrong), "ssh_config": str(config)}
    out, status = ended(drive(hosts, tmp_path / "run", str(RANK), "ok", **options), 240)
    assert message in status["error"], out
    assert not (tmp_path / "run" / "logs").exists(), "nothing was started"


def test_a_filesystem_that_is_not_shared_is_named(hosts: Hosts, tmp_path: Path) -> None:
    """/dev/shm is each host's own."""
    _, status = ended(drive(hosts, Path("/dev/shm") / tmp_path.name, str(RANK), "ok"), 240)
    assert "h2 cannot see /dev/shm" in status["error"]


def test_a_host_has_one_driver_at_a_time_unless_it_is_shared(hosts: Hosts, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    driver = drive(hosts, first, str(COUNTER), str(first), "3000", "0.1", lost_after=6)
    try:
        wait_until(lambda: len(steps(first, 0)) > 3, 240, "the first steps")
        out, refused = ended(drive(hosts, second, str(RANK), "ok"))
        assert refused["error"].startswith(f"h1 is busy with {first}, driven by h1:"), out
        assert not (second / "logs").exists(), "nothing was started"
        out, status = ended(drive(hosts, second, str(RANK), "ok", exclusive=False))
        assert status["state"] == "done", out
    finally:
        (pid,) = (pid for pid, line in hosts.processes("h1", str(DRIVER)).items() if line.startswith(sys.executable))
        os.kill(pid, signal.SIGKILL)
        driver.wait(60)
    wait_until(lambda: not hosts.processes("h2", "trainer."), 120, "the end of the first")
    out, status = ended(drive(hosts, second, str(RANK), "ok"))
    assert status["state"] == "done", f"a claim ends with its process: {out}"


def test_each_host_may_have_its_own_interpreter_and_directory(hosts: Hosts, tmp_path: Path) -> None:
    wrapped, there = tmp_path / "other python", tmp_path / "other place"
    wrapped.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} WHICH=other exec {sys.executable} "$@"\n')
    wrapped.chmod(0o755)
    there.mkdir()
    program = tmp_path / "where.py"
    program.write_text("import os; print(os.environ.get('WHICH', 'usual'), os.getcwd())")
    listed = ["h1", {"host": "h2", "python": str(wrapped), "directory": str(there)}]
    out, status = ended(drive(hosts, tmp_path / "run", str(program), hosts=listed))
    assert status["state"] == "done", out
    assert sorted(line[4:] for line in out.splitlines() if line.startswith("[")) == [f"other {there}", f"usual {ROOT}"]


def test_a_login_shell_may_print(hosts: Hosts, tmp_path: Path) -> None:
    key, config = tmp_path / "noisy", tmp_path / "ssh_config"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    noise = r"""printf 'Welcome to {"here"}\n{"hello": 1}\n> '; exec sh -c "$SSH_ORIGINAL_COMMAND" """.strip()
    escaped = noise.replace('"', '\\"')
    allowed = hosts.root / "ssh" / "authorized_keys"
    before = allowed.read_text()
    allowed.write_text(f'{before}command="{escaped}" {key.with_suffix(".pub").read_text()}')
    config.write_text(f"Host *\n  IdentitiesOnly yes\n  IdentityFile {key}\n")
    try:
        out, status = ended(drive(hosts, tmp_path / "run", str(RANK), "ok", key=str(key), ssh_config=str(config)))
    finally:
        allowed.write_text(before)
    assert status.get("state") == "done", out


@pytest.mark.parametrize(
    ("python", "directory", "message"),
    [
        ("/nowhere/python", str(ROOT), "/nowhere/python"),
        (sys.executable, "/nowhere", "/nowhere"),
        ("~/nowhere/python", str(ROOT), "/root/nowhere/python"),
    ],
)
def test_a_wrong_interpreter_or_directory_is_named_with_its_host(
    hosts: Hosts, tmp_path: Path, python: str, directory: str, message: str
) -> None:
    listed = [{"host": "h1", "python": python, "directory": directory}, "h2"]
    out, status = ended(drive(hosts, tmp_path / "run", str(RANK), "ok", hosts=listed), 240)
    assert status["error"].startswith("h1 is reached, but cannot start Escala"), out
    assert message in status["error"]


DETACH = """
import sys
from pathlib import Path
from launch.cluster.detached import detach
print(detach(sys.argv[2:], Path(sys.argv[1])))
"""


def test_a_detached_driver_outlives_its_terminal_and_is_cancelled_from_another(hosts: Hosts, tmp_path: Path) -> None:
    """It is started on h1 by a process that ends at once, and asked and ended there by name."""
    run_dir = tmp_path / "runs" / "a"
    options = {"hosts": hosts.names, "lost_after": 6}
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "eth0"}
    values = {"backend": "ssh", "nodes": 2, "python": sys.executable, "directory": str(ROOT), "options": options}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**values, "environment": variables}))
    order = {"cluster": str(tmp_path / "c.yaml"), "run_dir": str(run_dir)}
    order |= {"command": [str(COUNTER), str(run_dir), "3000", "0.1"]}

    def on_h1(*words: str) -> str:
        command = hosts.command("h1", sys.executable, *words)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    def state() -> str:
        (row,) = json.loads(on_h1("-m", "launch", "jobs", "--runs", str(tmp_path / "runs"), "--json"))
        return str(row["state"])

    def begin() -> str:
        return on_h1("-c", DETACH, str(run_dir), sys.executable, str(ATTEND), json.dumps(order)).strip()

    job = begin()
    assert job.startswith("h1:")
    wait_until(lambda: state() == "running", 120, "the driver's first word of its ranks")
    wait_until(lambda: len(steps(run_dir, 0)) > 3 and len(steps(run_dir, 1)) > 3, 240, "the first steps")
    assert f"cancelled a ({job})" in on_h1("-m", "launch", "cancel", "a", "--runs", str(tmp_path / "runs"))
    wait_until(lambda: state() in ("cancelled", "preempted"), 120, "the end")
    for host in hosts.names:
        wait_until(lambda h=host: not hosts.processes(h, "trainer."), 120, f"the end of all processes on {host}")
    saved = [int((run_dir / f"step_{rank}").read_text()) for rank in (0, 1)]
    again = begin()
    assert again != job
    wait_until(lambda: steps(run_dir, 0)[-1] > saved[0] + 3, 240, "the next steps")
    on_h1("-m", "launch", "cancel", "a", "--runs", str(tmp_path / "runs"))
    wait_until(lambda: state() in ("cancelled", "preempted"), 120, "the end")
    assert steps(run_dir, 1) == list(range(1, steps(run_dir, 1)[-1] + 1)), "no step is lost, none is done twice"
