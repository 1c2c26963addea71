"""Preflight: each check on reports of nodes, and one real node."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launch.cluster.config import load_cluster
from launch.cluster.preflight import nodes
from launch.cluster.preflight.checks import Check, Level, bandwidth, evaluate
from launch.cluster.ssh.nodes import node_commands
from launch.commands.doctor import doctor

NOW = 1_000_000.0


def report(host: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "host": host,
        "time": NOW + 0.5,
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "deepspeed": "0.19.8"},
        "gpus": [],
        "cores": 8,
        "memory": 2**36,
        "disk_free": 2**40,
        "shm_free": 2**35,
        "wandb": True,
        "port": True,
        "seen": 2,
        "write_error": None,
        "write_seconds": 0.01,
    }
    return {**values, **changes}


GPU = {"name": "H100", "memory_mib": 81559, "driver": "550", "ecc_errors": "0"}


def judge(*reports: dict[str, Any], gpu: bool = False) -> dict[str, Check]:
    found = evaluate(list(reports), nodes=2, ranks_per_node=2, gpu=gpu, asked_at=NOW)
    return {check.name: check for check in found}


def test_healthy_nodes_pass() -> None:
    checks = judge(report("a"), report("b"))
    assert {check.level for check in checks.values()} == {Level.OK}
    assert all(not check.fix for check in checks.values())
    assert judge(report("a", gpus=[GPU] * 2), report("b", gpus=[GPU] * 2), gpu=True)["GPUs"].level is Level.OK


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        ({"packages": {"torch": "2.12.0", "deepspeed": "0.19.8"}}, "versions", Level.FAIL, "torch"),
        ({"packages": {"torch": "2.13.0", "deepspeed": None}}, "packages", Level.FAIL, "missing: deepspeed"),
        ({"seen": 1}, "shared filesystem", Level.FAIL, "b see only some"),
        ({"write_error": "Read-only file system", "seen": 0}, "run directory", Level.FAIL, "Read-only"),
        ({"disk_free": 2**30}, "disk", Level.WARN, "1.0 GiB free on b"),
        ({"shm_free": 2**26}, "/dev/shm", Level.WARN, "64.0 MiB free on b"),
        ({"time": NOW + 30}, "clocks", Level.WARN, "29.5 s"),
        ({"time": NOW - 300}, "clocks", Level.FAIL, "300.5 s"),
        ({"port": False}, "ports", Level.FAIL, "b cannot listen"),
        ({"wandb": False}, "W&B", Level.WARN, "not reachable from b"),
        ({"cores": 1}, "cores", Level.WARN, "1 for 2 ranks"),
        ({"gpus": [{**GPU, "ecc_errors": "3"}]}, "GPU memory", Level.FAIL, "uncorrected errors on b"),
    ],
)
def test_a_sick_node_is_named_with_a_fix(changes: dict, name: str, level: Level, words: str) -> None:
    check = judge(report("a"), report("b", **changes))[name]
    assert check.level is level and words in check.detail and check.fix


def test_missing_gpus_and_silent_nodes_fail() -> None:
    assert judge(report("a", gpus=[GPU]), report("b", gpus=[GPU] * 2), gpu=True)["GPUs"].level is Level.FAIL
    checks = judge(report("a", seen=1))
    assert checks["nodes"].level is Level.FAIL and "1 of 2 answered: a" in checks["nodes"].detail
    assert evaluate([], nodes=2, ranks_per_node=1, gpu=False, asked_at=NOW)[0].level is Level.FAIL


def test_bandwidth_is_judged() -> None:
    right = {"world": 4, "right": True, "bus": 2.5e9}
    assert bandwidth(right, "", 4) == Check("all-reduce", Level.OK, "2.50 GB/s bus bandwidth over 4 ranks (64 MiB)")
    assert bandwidth({**right, "right": False}, "", 4).level is Level.FAIL
    assert bandwidth(right, "", 8).level is Level.FAIL
    assert bandwidth(None, "it failed", 4).detail == "it failed"


def test_a_real_node_describes_itself(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "trainer.node.node_check",
        "--meet",
        str(tmp_path),
        "--nodes",
        "1",
    ]
    done = subprocess.run([*command, "--wandb", "http://127.0.0.1:9"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["seen"] == 1 and found["packages"]["torch"] and found["wandb"] is False
    assert " torch" not in done.stderr, "describing a node imports no torch"


def test_doctor_prints_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCALA_RUNS", "/somewhere")
    monkeypatch.setenv("SLURM_SECRET", "hunter2")
    done = CliRunner().invoke(doctor, ["--json"])
    assert json.loads(done.output)["environment"]["ESCALA_RUNS"] == "/somewhere"
    assert "hunter2" not in done.output


def test_a_report_is_found_behind_what_a_login_shell_prints() -> None:
    text = 'Welcome to {"here"}\n> {"host": "a", "seen": 1}\nbye\n'
    assert nodes.reports_in(text) == [{"host": "a", "seen": 1}]


def test_each_host_is_asked_with_its_own_interpreter(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "backend: ssh\nnodes: 2\npython: /p\ndirectory: ~/d\n"
        "options: {hosts: [a, {host: b, python: ~/q, directory: /e}]}\n"
    )
    cluster = load_cluster(str(file))
    asked = node_commands(cluster, cluster.job("preflight", ("x",), tmp_path), ("-m", "there"))
    words = "-m there"
    assert [name for name, _ in asked] == ["a", "b"]
    assert [command[-2:] for _, command in asked] == [
        ["a", f"cd -- ~/d && exec /p {words}"],
        ["b", f"cd -- /e && exec ~/q {words}"],
    ]
