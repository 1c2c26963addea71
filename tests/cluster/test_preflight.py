"""`escala preflight` on a real Slurm and over real SSH: every node is asked, and an all-reduce crosses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import Hosts
from tests.cluster.slurm import Slurm

ROOT = Path(__file__).resolve().parents[2]
CHECKS = {"nodes", "versions", "cores", "shared filesystem", "disk", "/dev/shm", "clocks", "ports", "W&B", "all-reduce"}
SHARED = {
    "nodes": 2,
    "python": sys.executable,
    "directory": str(ROOT),
    "environment": {"OMP_NUM_THREADS": "1", "WANDB_BASE_URL": "http://127.0.0.1:9"},
}


def preflight(
    tmp_path: Path, runs: Path, cluster: dict[str, Any], before: tuple[str, ...] = ()
) -> tuple[int, list[str], dict[str, Any]]:
    """Run the command; return its exit code, the hosts that answered, and each check by name."""
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump({**SHARED, **cluster}))
    words = [sys.executable, "-m", "launch", "preflight", "--cluster", str(file), "--runs", str(runs), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run([*before, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    return done.returncode, sorted(r["host"] for r in found["nodes"]), {c["name"]: c for c in found["checks"]}


def test_the_nodes_of_a_slurm_pass(slurm: Slurm, tmp_path: Path) -> None:
    code, hosts, checks = preflight(tmp_path, tmp_path / "runs", {"backend": "slurm"})
    assert (code, len(hosts), set(checks)) == (0, 2, CHECKS), checks
    assert set(hosts) < set(slurm.names)
    assert "GB/s bus bandwidth over 2 ranks" in checks["all-reduce"]["detail"]
    assert checks["W&B"]["level"] == "WARN", "nothing listens where W&B was said to be"


def test_hosts_over_ssh_pass_and_a_directory_that_is_not_shared_fails(hosts: Hosts, tmp_path: Path) -> None:
    environment = {**SHARED["environment"], "GLOO_SOCKET_IFNAME": "eth0"}  # type: ignore[dict-item]
    cluster = {"backend": "ssh", "options": {"hosts": hosts.names}, "environment": environment}
    before = tuple(hosts.command("h1"))
    code, answered, checks = preflight(tmp_path, tmp_path / "runs", cluster, before)
    assert (code, answered, set(checks)) == (0, hosts.names, CHECKS), checks
    assert "GB/s bus bandwidth over 2 ranks" in checks["all-reduce"]["detail"]
    own = Path("/dev/shm") / tmp_path.name  # each host has its own
    code, answered, checks = preflight(tmp_path, own, cluster, before)
    assert (code, answered) == (1, hosts.names)
    assert checks["shared filesystem"]["level"] == "FAIL" and "--runs DIR" in checks["shared filesystem"]["fix"]
