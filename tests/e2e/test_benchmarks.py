"""Benchmarks that drive the engine run, at their smallest: nobody runs them on each change, and engines change."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from launch.cluster.local.warm import rank_environment
from tests.e2e.ranks import ROOT

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "command",
    [
        "overhead --size 100k --zero 0 --blocks 2 --steps 1",
        "overhead --size 100k --tensor --blocks 2 --steps 1",
        "step_time --sizes 100k --rounds 1 --threads 1 --sequences 1",
    ],
)
def test_a_benchmark_of_the_engine_runs(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *f"benchmarks.{command}".split()],
        cwd=ROOT,
        env=rank_environment(os.environ, threads=1),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
