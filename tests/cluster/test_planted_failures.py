"""Failures over SSH and on Slurm, before and after ranks start: `escala jobs` and `logs` name cause and place."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.hosts import Hosts
from tests.cluster.slurm import Slurm, wait_until
from tests.launch.planted import Planted, name_of

ROOT = Path(__file__).resolve().parents[2]
ATTEND = Path(__file__).with_name("attend.py")
PROGRAM = ROOT / "tests" / "launch" / "programs" / "planted.py"
TINY = ROOT / "configs" / "run" / "tiny.yaml"
SHARED: dict[str, Any] = {
    "nodes": 2,
    "python": sys.executable,
    "directory": str(ROOT),
    "environment": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
}
AFTER_START = [
    Planted("raise", "RuntimeError: rank 1 was told to fail [/x]"),
    Planted("import", "ModuleNotFoundError: No module named 'a_module_that_is_not_installed'"),
    Planted("kill", "signal SIGKILL: killed from outside", victim=0),
    Planted("kill", "signal SIGKILL: killed from outside", victim=1),
    Planted("disk", "OSError: [Errno 27] File too large", victim=0),
    Planted("user", "error: tensor 3 does not divide 4 heads", victim=1),
]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def cluster_file(tmp_path: Path, **values: object) -> Path:
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump({**SHARED, **values}))
    return file


def ssh_cluster(tmp_path: Path, network: Hosts, **options: object) -> Path:
    variables = {**SHARED["environment"], "GLOO_SOCKET_IFNAME": "eth0"}
    return cluster_file(
        tmp_path, backend="ssh", environment=variables, options={"hosts": network.names, "lost_after": 6, **options}
    )


def attend(tmp_path: Path, file: Path, before: tuple[str, ...], *command: str) -> subprocess.Popen[str]:
    order = {"cluster": str(file), "run_dir": str(tmp_path / "runs" / "a"), "command": command}
    words = [*before, sys.executable, str(ATTEND), json.dumps(order)]
    return subprocess.Popen(
        words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def escala(before: tuple[str, ...], *words: str) -> str:
    command = [*before, sys.executable, "-m", "launch", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def check(runs: Path, name: str, cause: str, place: str, before: tuple[str, ...] = ()) -> None:
    """Ask as another process does, when the driver is gone."""
    text = escala(before, "jobs", "--runs", str(runs), "--json")
    (row,) = json.loads(text)
    assert row["state"] == "failed", row
    assert cause in row["reason"] and re.search(place, row["reason"]), row["reason"]
    logs = escala(before, "logs", name, "--runs", str(runs))
    assert cause in logs and re.search(place, logs), logs[-2000:]
    assert escala(before, "jobs", "--runs", str(runs)).count("failed") >= 1
    why = escala(before, "why", name, "--runs", str(runs))
    assert cause in why and re.search(place, why), why


def both_train(run_dir: Path) -> bool:
    logs = [run_dir / "logs" / "1" / f"rank_{rank}.log" for rank in (0, 1)]
    return all(log.exists() and "ready" in log.read_text() for log in logs)


@pytest.mark.parametrize("planted", AFTER_START, ids=name_of)
def test_a_rank_that_fails_over_ssh_is_named(hosts: Hosts, tmp_path: Path, planted: Planted) -> None:
    before = tuple(hosts.command("h1"))
    file = ssh_cluster(tmp_path, hosts)
    out, _ = attend(tmp_path, file, before, str(PROGRAM), planted.how, str(planted.victim), str(tmp_path)).communicate(
        timeout=240
    )
    assert "failed" in out
    check(tmp_path / "runs", "a", planted.cause, rf"rank {planted.victim} on h[12]", before)


@pytest.mark.parametrize(
    ("options", "top", "cause", "place"),
    [
        ({}, {"python": "/nowhere/python"}, "/nowhere/python", "h[12] is reached, but cannot start Escala"),
        ({}, {"directory": "/nowhere"}, "/nowhere", "h[12] is reached, but cannot start Escala"),
        ({"hosts": ["h1", "h9"]}, {}, "h9 cannot be reached", "h9"),
        ({"hosts": ["h1", "h2:2222"]}, {}, "Connection refused", "h2 cannot be reached"),
    ],
    ids=["python", "directory", "unknown-host", "closed-port"],
)
def test_what_is_refused_over_ssh_is_told_later_too(
    hosts: Hosts, tmp_path: Path, options: dict, top: dict, cause: str, place: str
) -> None:
    before = tuple(hosts.command("h1"))
    file = cluster_file(tmp_path, **{"backend": "ssh", "options": {"hosts": hosts.names, **options}, **top})
    said = escala(before, "submit", str(TINY), "--cluster", str(file), "--runs", str(tmp_path / "runs"))
    assert said.startswith("error: ") and cause in said and re.search(place, said)
    check(tmp_path / "runs", "tiny", cause, place, before)


def test_an_agent_without_its_packages_is_named_with_its_host(hosts: Hosts, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    bare = tmp_path / "bare" / "bin" / "python"  # it has the standard library alone
    before = tuple(hosts.command("h1"))
    listed = ["h1", {"host": "h2", "python": str(bare)}]
    attend(tmp_path, ssh_cluster(tmp_path, hosts, hosts=listed), before, str(PROGRAM), "ok", "9", "x").communicate(
        timeout=240
    )
    check(tmp_path / "runs", "a", "No module named", "^h2|h2: ", before)


def test_a_host_that_does_not_come_back_is_named(hosts: Hosts, tmp_path: Path) -> None:
    before = tuple(hosts.command("h1"))
    file = ssh_cluster(tmp_path, hosts, reconnect_minutes=0)
    driver = attend(tmp_path, file, before, str(PROGRAM), "none", "9", str(tmp_path))
    wait_until(lambda: both_train(tmp_path / "runs" / "a"), 120, "the ranks")
    hosts.cut("h2")
    try:
        driver.communicate(timeout=240)
        check(tmp_path / "runs", "a", "h2 was lost: no sign of life", "h2", before)
    finally:
        hosts.heal("h2")


def test_a_driver_that_was_killed_is_no_running_job(hosts: Hosts, tmp_path: Path) -> None:
    before = tuple(hosts.command("h1"))
    driver = attend(tmp_path, ssh_cluster(tmp_path, hosts), before, str(PROGRAM), "none", "9", str(tmp_path))
    wait_until(lambda: both_train(tmp_path / "runs" / "a"), 120, "the ranks")
    (pid,) = (pid for pid, line in hosts.processes("h1", str(ATTEND)).items() if line.startswith(sys.executable))
    os.kill(pid, signal.SIGKILL)
    driver.communicate(timeout=60)
    text = escala(before, "jobs", "--runs", str(tmp_path / "runs"), "--json")
    (row,) = json.loads(text)
    assert row["state"] == "failed" and "its process is gone" in row["reason"], row
    assert "on h1, h2" in row["reason"], "where it ran"


@pytest.mark.parametrize("planted", AFTER_START, ids=name_of)
def test_a_rank_that_fails_on_slurm_is_named(slurm: Slurm, tmp_path: Path, planted: Planted) -> None:
    file = cluster_file(tmp_path, backend="slurm")
    attend(tmp_path, file, (), str(PROGRAM), planted.how, str(planted.victim), str(tmp_path)).communicate(timeout=240)
    check(tmp_path / "runs", "a", planted.cause, rf"rank {planted.victim} on \S+")


def test_a_rank_that_stood_still_on_slurm_is_named_with_its_stack(slurm: Slurm, tmp_path: Path) -> None:
    """Each node's agent asks its own ranks: the one that failed knows only that it waited."""
    file = cluster_file(tmp_path, backend="slurm")
    attend(tmp_path, file, (), str(PROGRAM), "timeout", "0", str(tmp_path)).communicate(timeout=240)
    told = json.loads(escala((), "why", "a", "--runs", str(tmp_path / "runs"), "--json"))
    assert (told["cause"], told["rank"]) == ("a rank did not answer", 0) and told["host"], told
    assert "rank 1 on" in told["says"] and " in fail" in told["traceback"][0], told


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"python": "/nowhere/python"}, "/nowhere/python"),
        ({"directory": "/nowhere"}, "/nowhere"),
        ({"options": {"setup": ["module load cuda/99"]}}, "module"),
    ],
    ids=["python", "directory", "setup"],
)
def test_what_fails_before_the_ranks_of_a_slurm_job_is_named(
    slurm: Slurm, tmp_path: Path, values: dict, cause: str
) -> None:
    file = cluster_file(tmp_path, **{"backend": "slurm", **values})
    attend(tmp_path, file, (), str(PROGRAM), "none", "9", str(tmp_path)).communicate(timeout=240)
    check(tmp_path / "runs", "a", cause, r"n[123]|slurm-\d+\.out")
