"""Attempts are claimed once each, and a job that does not advance is not started for ever."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.contract.attempts import (
    CLAIM,
    MOST_STARTS,
    Claim,
    attempts,
    attempts_of,
    claim_attempt,
    claim_of,
    seconds_before,
    standstill,
    starts_in_vain,
)
from trainer.contract.errors import UserError
from trainer.node.claiming import find_claim


def save(run_dir: Path, checkpoint: str) -> None:
    (run_dir / "latest").write_text(checkpoint + "\n")


def test_a_claim_says_whose_it_is_and_where_it_begins(tmp_path: Path) -> None:
    assert claim_attempt(tmp_path, "7") == Claim(1, "7")
    save(tmp_path, "step_5")
    claim = claim_attempt(tmp_path, "7_1", repeat=2, start="x")
    assert claim == claim_of(tmp_path, 2) == Claim(2, "7_1", 2, "x", "step_5")
    claim_attempt(tmp_path, "7")
    assert (attempts(tmp_path), attempts_of(tmp_path, "7")) == ([1, 2, 3], [1, 3])
    for damaged in ("", "[]", "{}", '{"job": "7"}'):
        (tmp_path / "logs" / "2" / CLAIM).write_text(damaged)
        assert claim_of(tmp_path, 2) is None and attempts_of(tmp_path, "7") == [1, 3]


def test_of_many_that_start_together_each_has_its_own_attempt(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: claim_attempt(tmp_path, str(n)), range(32)))
    assert sorted(claim.attempt for claim in claims) == list(range(1, 33))
    assert {claim.job for claim in claims} == {claim_of(tmp_path, n).job for n in range(1, 33)}  # type: ignore[union-attr]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=12))
def test_no_more_than_three_starts_from_one_checkpoint(starts: list[tuple[bool, int]]) -> None:
    """Each start: whether it saves something newer, and how many tries with another port it takes."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir, in_vain = Path(directory), 0
        for repeat, (advances, tries) in enumerate(starts):
            for _ in range(tries):
                claim = claim_attempt(run_dir, "7", repeat=repeat)
                assert bool(standstill(run_dir, claim, ended=False)) == (in_vain >= MOST_STARTS)
            if in_vain >= MOST_STARTS:
                return
            if advances:
                save(run_dir, f"step_{repeat}")
            in_vain = 0 if advances else in_vain + 1
            assert starts_in_vain(run_dir, claim) == in_vain
            assert bool(standstill(run_dir, claim, ended=True)) == (in_vain >= MOST_STARTS)


def test_a_new_submission_counts_anew_also_where_ids_begin_again(tmp_path: Path) -> None:
    for repeat in range(MOST_STARTS):
        last = claim_attempt(tmp_path, "7", repeat=repeat)
    said = standstill(tmp_path, last, ended=True)
    assert said.startswith("3 attempts in a row began at the first step and saved nothing newer: stopped.")
    for job in ("8", "7", ""):
        for _ in range(MOST_STARTS + 1):
            assert standstill(tmp_path, claim_attempt(tmp_path, job), ended=False) == ""


def test_the_nodes_of_a_start_follow_its_claim_and_no_older_one(tmp_path: Path) -> None:
    claim_attempt(tmp_path, "7", start="7.0")
    with pytest.raises(UserError, match=r"the start '7\.1' of the first node did not appear in .* within 0 s"):
        find_claim(tmp_path, "7.1", None, 0.3)
    claimed = claim_attempt(tmp_path, "7", repeat=1, start="7.1")
    assert find_claim(tmp_path, "7.1", None, 5) == find_claim(tmp_path, "", 2, 5) == claimed
    (tmp_path / "logs" / "3").mkdir()  # as older batch scripts did, which may still wait in a queue
    assert find_claim(tmp_path, "7.3", 3, 5) == Claim(3)


def test_how_long_attempts_lasted_is_known_from_what_they_left(tmp_path: Path):
    for attempt, (claimed, said) in enumerate([(100, 160), (200, None), (300, 290), (400, 401)], start=1):
        assert claim_attempt(tmp_path).attempt == attempt
        os.utime(tmp_path / "logs" / str(attempt) / "claim.json", (claimed, claimed))
        if said is not None:
            log = tmp_path / "logs" / str(attempt) / "rank_0.log"
            log.touch()
            os.utime(log, (said, said))
    assert [seconds_before(tmp_path, attempt) for attempt in (1, 2, 4, 5)] == [0.0, 60.0, 60.0, 61.0]
