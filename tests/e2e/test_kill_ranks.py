"""Kill random ranks at random moments and resume: the run ends as if nothing had happened.

Kills are aimed: at training, at a save, at the deletion of old checkpoints, at the start of an attempt while it
restores (half of them with the newest checkpoint torn before), and at the server that the ranks were forked from. As
tests: some kills on one layout, and some with another layout after each. The long versions, any time:

    python -m tests.e2e.test_kill_ranks --kills 100 --seed 1
    python -m tests.e2e.test_kill_ranks --kills 50 --seed 1 --layouts tensor
    python -m tests.e2e.test_kill_ranks --kills 50 --seed 1 --layouts mixed
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.cluster.local.warm import RankPool
from launch.run.data_preparation import resolve
from tests.e2e.ranks import PATIENCE, Ranks, configuration, make_pool
from trainer.checkpoint.manifest import list_checkpoints
from trainer.checkpoint.search import problem_with

# Layouts of two ranks that the attempts take in turns.
LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "data": [{}],
    "tensor": [{"tensor": 2}],
    "mixed": [{}, {"tensor": 2}, {"zero_stage": 3}, {"sequence": 2}, {"zero_stage": 0}],
}
# A step. Rounding differs by layout and grows: two layouts that nobody kills are 1.2e-5 apart after 500 steps.
TOLERANCE = {"data": 0.0, "tensor": 0.0, "mixed": 3e-8}


MOMENTS = ("training", "saving", "retention", "restoring", "server")
STARTING = 1.5  # seconds that an attempt takes to restore; a kill at the start comes within them


def kill_once(ranks: Ranks, chance: random.Random, layout: dict[str, Any], moment: str, *, saved: bool = False) -> str:
    """Start an attempt, kill one rank or the server of all at a moment of this kind, and wait for the rest.

    With `saved` the moment comes after a first checkpoint, however slow the machine is. Returns what was done.
    """
    torn = moment == "restoring" and chance.random() < 0.5 and tear_the_newest(ranks)
    began = len(ranks.events("started"))
    ranks.start(laid_out(ranks, layout))
    if moment == "restoring":
        until(ranks, lambda: False, seconds=chance.random() * STARTING)
    else:
        until(ranks, lambda: len(ranks.events("started")) > began)
        if saved:
            until(ranks, ranks.run_dir.latest.exists)
        _await_moment(ranks, chance, moment)
    ranks.hear(0)
    if moment == "server":
        ranks.lose_server()
    elif ranks.alive():
        first = f"{ranks.attempt}/0"  # which alone deletes checkpoints
        victim = first if moment == "retention" and first in ranks.alive() else chance.choice(ranks.alive())
        ranks.pool.signal(victim, signal.SIGKILL)
    ranks.end(time.monotonic() + 45)
    return f"{moment}, the newest checkpoint torn before" if torn else moment


def _await_moment(ranks: Ranks, chance: random.Random, moment: str) -> None:
    """Wait for a moment of the kind: events say when a save begins and when its checkpoint exists."""
    if moment in ("saving", "retention"):
        event = "saving" if moment == "saving" else "saved"
        count = len(ranks.events(event))
        until(ranks, lambda: len(ranks.events(event)) > count)
        time.sleep(chance.random() * (0.02 if moment == "saving" else 0.003))
    else:
        ranks.until_rows(ranks.rows() + chance.randrange(12), pause=0.002)
        time.sleep(chance.random() * 0.05)


def until(ranks: Ranks, happened: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until something has happened, the attempt has ended, or the time is over."""
    deadline = time.monotonic() + seconds
    while not happened() and ranks.alive() and time.monotonic() < deadline:
        ranks.hear(0.001)


def tear_the_newest(ranks: Ranks) -> bool:
    """Cut a file of the newest checkpoint, where an older one is left to go on from."""
    found = list_checkpoints(ranks.run_dir.checkpoints)
    if len(found) > 1:
        os.truncate(found[0] / "rank_00000.safetensors", 1000)
    return len(found) > 1


def laid_out(ranks: Ranks, layout: dict[str, Any]) -> Any:
    """Return the run's configuration on another layout."""
    parallel = ranks.config.parallel.model_copy(update=layout)
    return ranks.config.model_copy(update={"parallel": parallel})


def compare_with_uninterrupted(
    root: Path, pool: RankPool, data: Path, *, kills: int, seed: int, steps: int, layouts: str
) -> dict[str, Any]:
    """Train without and with kills; assert that both recorded the same. Returns what to report."""
    chance = random.Random(seed)
    # An eps at which float32 is well-conditioned: see test_full_parity.py.
    config, _ = resolve(configuration(data, steps, optim={"eps": 1e-6} if layouts == "mixed" else {}))
    turns = LAYOUTS[layouts]
    whole = Ranks(pool, config, root / "whole", 2)
    expected = whole.finish(laid_out(whole, turns[0]))
    ranks = Ranks(pool, config, root / "killed", 2)
    for number in range(kills):
        moment = MOMENTS[number % len(MOMENTS)]
        done = kill_once(ranks, chance, turns[number % len(turns)], moment, saved=number == kills - 1)
        print(f"kill {number + 1} of {kills}, {done}: {ranks.codes}, {_progress(ranks)}", flush=True)
    rows = ranks.finish(laid_out(ranks, turns[kills % len(turns)]))
    assert [row[:2] for row in rows] == [row[:2] for row in expected], "steps were lost or repeated"
    largest = max(abs(a[2] - b[2]) for a, b in zip(rows, expected, strict=True))
    assert largest <= TOLERANCE[layouts] * steps, f"a loss differs by {largest}"
    left = list_checkpoints(ranks.run_dir.checkpoints)
    assert len(left) == ranks.config.checkpoint.keep_last and not any(problem_with(path) for path in left)
    assert not list(ranks.run_dir.checkpoints.glob(".step_*")), "something half-written was left"
    counts = {name: len(ranks.events(name)) for name in ("resumed", "began_anew", "set_aside")}
    return {"kills": kills, **counts, "rows": len(rows), "largest difference": largest}


def _progress(ranks: Ranks) -> str:
    latest = ranks.run_dir.latest
    return latest.read_text().strip() if latest.exists() else "no checkpoint yet"


@pytest.mark.e2e
@pytest.mark.parametrize("layouts", ["data", "mixed"])
def test_killed_ranks_resume_without_a_trace(tmp_path: Path, rank_pool: RankPool, prepared: Path, layouts: str) -> None:
    found = compare_with_uninterrupted(tmp_path, rank_pool, prepared, kills=5, seed=0, steps=60, layouts=layouts)
    assert found["resumed"] >= 1


def main() -> None:
    """Entry point of the long version."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--layouts", choices=sorted(LAYOUTS), default="data")
    a = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="escala-kill-") as directory:
        root = Path(directory)
        pool = make_pool(root)
        try:
            found = compare_with_uninterrupted(
                root, pool, root, kills=a.kills, seed=a.seed, steps=a.steps, layouts=a.layouts
            )
        finally:
            pool.close()
    print(json.dumps({**found, "layouts": a.layouts, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
