"""Real clusters for the tests of this folder, started once a session; skipped with the reason where they cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import hosts as host_module
from tests.cluster import slurm as slurm_module
from tests.cluster.hosts import Hosts
from tests.cluster.slurm import Slurm

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/cluster" in str(item.path):
            item.add_marker("cluster")


def start_or_skip(cluster: Slurm | Hosts) -> None:
    """Start it; a system that has the programs but does not let them run is no fault of ours."""
    try:
        cluster.start()
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{type(cluster).__name__} does not start here: {error}")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    reason = slurm_module.missing()
    if reason is not None:
        pytest.skip(f"no Slurm here: {reason}")
    # Not below pytest's own directory: munge refuses a socket that others cannot reach.
    root = Path(tempfile.mkdtemp(prefix="escala-slurm-"))
    cluster = Slurm(root, nodes=3)
    former = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
    try:
        start_or_skip(cluster)
        yield cluster
    finally:
        cluster.stop()
        if former is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = former
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    reason = host_module.missing()
    if reason is not None:
        pytest.skip(f"no SSH hosts here: {reason}")
    network = Hosts(tmp_path_factory.mktemp("hosts"), count=2)
    try:
        start_or_skip(network)
        yield network
    finally:
        network.stop()
