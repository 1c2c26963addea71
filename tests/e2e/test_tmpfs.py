"""Checkpoints on a file system that is really full, at one place of a save after the other. Needs root, to mount it.

As a test: a few sizes of the file system. All of them, page by page:

    python -m tests.e2e.test_tmpfs --stride 1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch.cluster.local.warm import RankPool
from launch.run.data_preparation import resolve
from tests.e2e.ranks import PATIENCE, Ranks, configuration, make_pool
from trainer.checkpoint.manifest import list_checkpoints
from trainer.checkpoint.search import problem_with
from trainer.config.run import RunConfig
from trainer.contract.exit_codes import EXIT_FAILED
from trainer.contract.run_dir import Status

STEPS, PAGE = 20, 4096


@contextmanager
def mounted(directory: Path, size: int) -> Iterator[None]:
    """Mount a file system of so many bytes at a directory."""
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def can_mount() -> bool:
    """Return whether this process may mount a file system."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as directory:
        try:
            with mounted(Path(directory) / "m", PAGE):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


class Full:
    """One run, trained on file systems of several sizes and compared with its undisturbed self."""

    def __init__(self, pool: RankPool, data: Path, root: Path) -> None:
        self.pool, self.root = pool, root
        self.config: RunConfig
        self.config, _ = resolve(configuration(data, STEPS))
        whole = Ranks(pool, self.config, root / "whole", 2)
        self.expected = whole.finish()
        (newest, *_) = list_checkpoints(whole.run_dir.checkpoints)
        self.bytes = sum(-(-file.stat().st_size // PAGE) * PAGE for file in newest.iterdir())

    def train(self, size: int) -> str:
        """Train where checkpoints have so many bytes, then with room; return how the first attempt ended."""
        ranks = Ranks(self.pool, self.config, self.root / f"full_{size}", 2)
        with mounted(ranks.run_dir.checkpoints, size):
            ranks.start()
            ranks.end(time.monotonic() + PATIENCE)
            done = ranks.run_dir.read_status() is Status.DONE
            if not done:
                assert set(ranks.codes.values()) == {EXIT_FAILED}, ranks.log()
                assert f"error: the checkpoint after step {STEPS} could not be written" in ranks.log()
                assert "Traceback" not in ranks.log(), ranks.log()
            left = list_checkpoints(ranks.run_dir.checkpoints)
            assert not any(problem_with(path) for path in left)
            assert not list(ranks.run_dir.checkpoints.glob(".step_*")), "something half-written was left"
            subprocess.run(["mount", "-o", "remount,size=64m", str(ranks.run_dir.checkpoints)], check=True)
            if not done:
                assert ranks.finish() == self.expected
        return f"{'done' if done else 'failed'} with {len(left)} checkpoints"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, rank_pool: RankPool, prepared: Path) -> Full:
    if not can_mount():
        pytest.skip("this process may not mount a file system")
    return Full(rank_pool, prepared, tmp_path_factory.mktemp("full"))


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("share", [0.99, 1.3, 2.6])
def test_a_full_file_system_costs_no_more_than_what_did_not_fit(full: Full, share: float) -> None:
    outcome = full.train(int(full.bytes * share) // PAGE * PAGE)
    assert outcome.startswith("failed") or share > 1


def main() -> None:
    """Entry point: all sizes from nothing to where everything fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stride", type=int, default=16, help="pages between two sizes")
    a = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="escala-full-") as directory:
        root = Path(directory)
        pool = make_pool(root)
        try:
            full = Full(pool, root, root)
            sizes = range(PAGE, 3 * full.bytes + 8 * PAGE, a.stride * PAGE)
            outcomes = Counter(full.train(size) for size in sizes)
        finally:
            pool.close()
    print(json.dumps({"sizes": len(sizes), **outcomes, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
