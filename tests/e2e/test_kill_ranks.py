"""Kill random ranks at random moments, saves included, and resume: the run ends as if nothing had happened.

As tests: three kills on one layout, and three with another layout after each. The long versions, any time:

    python -m tests.e2e.test_kill_ranks --kills 50 --seed 1
    python -m tests.e2e.test_kill_ranks --kills 50 --seed 1 --layouts tensor
    python -m tests.e2e.test_kill_ranks --kills 50 --seed 1 --layouts mixed
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from launch.backends.warm import RankPool
from launch.data_preparation import resolve
from tests.e2e.ranks import PATIENCE, Ranks, configuration, make_pool

# Layouts of two ranks that the attempts take in turns.
LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "data": [{}],
    "tensor": [{"tensor": 2}],
    "mixed": [{}, {"tensor": 2}, {"zero_stage": 3}, {"sequence": 2}, {"zero_stage": 0}],
}
TOLERANCE = {"data": 0.0, "tensor": 0.0, "mixed": 2e-6}


def kill_once(ranks: Ranks, chance: random.Random, layout: dict[str, Any], *, saved: bool = False) -> str:
    """Start an attempt, kill one rank at a random moment of its training or saving, and wait for the rest.

    With `saved` the moment comes after a first checkpoint, however slow the machine is.
    """
    began = len(ranks.events("started"))
    ranks.start(laid_out(ranks, layout))
    deadline = time.monotonic() + PATIENCE
    while len(ranks.events("started")) == began and ranks.alive():
        assert time.monotonic() < deadline, "the attempt did not start"
        ranks.hear(0.02)
    while saved and not ranks.run_dir.latest.exists() and ranks.alive() and time.monotonic() < deadline:
        ranks.hear(0.005)
    saves = len(ranks.events("saving"))
    at_save = chance.random() < 0.4
    if at_save:  # the moment when a save has begun, and a little later
        while len(ranks.events("saving")) == saves and ranks.alive() and time.monotonic() < deadline:
            ranks.hear(0.001)
        time.sleep(chance.random() * 0.02)
    else:
        ranks.until_rows(ranks.rows() + chance.randrange(12), pause=0.002)
        time.sleep(chance.random() * 0.05)
    ranks.hear(0)
    if ranks.alive():
        ranks.pool.signal(chance.choice(ranks.alive()), signal.SIGKILL)
    ranks.end(time.monotonic() + 45)
    return "at a save" if at_save else "while training"


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
        moment = kill_once(ranks, chance, turns[number % len(turns)], saved=number == kills - 1)
        print(f"kill {number + 1} of {kills} {moment}: {ranks.codes}, {_progress(ranks)}", flush=True)
    rows = ranks.finish(laid_out(ranks, turns[kills % len(turns)]))
    assert [row[:2] for row in rows] == [row[:2] for row in expected], "steps were lost or repeated"
    largest = max(abs(a[2] - b[2]) for a, b in zip(rows, expected, strict=True))
    assert largest <= TOLERANCE[layouts], f"a loss differs by {largest}"
    return {"kills": kills, "resumed": len(ranks.events("resumed")), "rows": len(rows), "largest difference": largest}


def _progress(ranks: Ranks) -> str:
    latest = ranks.run_dir.latest
    return latest.read_text().strip() if latest.exists() else "no checkpoint yet"


@pytest.mark.e2e
@pytest.mark.parametrize("layouts", ["data", "mixed"])
def test_killed_ranks_resume_without_a_trace(tmp_path: Path, rank_pool: RankPool, prepared: Path, layouts: str) -> None:
    found = compare_with_uninterrupted(tmp_path, rank_pool, prepared, kills=3, seed=0, steps=60, layouts=layouts)
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
