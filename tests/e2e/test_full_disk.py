"""A disk that is full during any steps of a run: it ends equal to one that never was, at once or when there is room."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launch.cluster.local.warm import RankPool
from launch.run.data_preparation import resolve
from tests.e2e.ranks import PATIENCE, Ranks, configuration
from trainer.contract.exit_codes import EXIT_DONE, EXIT_FAILED
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import Status

pytestmark = pytest.mark.e2e
STEPS = 20
Row = tuple[str, int, float]


@pytest.fixture(scope="module")
def whole(rank_pool: RankPool, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Return the rows of a run whose disk always had room."""
    return ranks(rank_pool, prepared, tmp_path_factory.mktemp("whole")).finish()


def ranks(pool: RankPool, data: Path, directory: Path) -> Ranks:
    return Ranks(pool, resolve(configuration(data, STEPS))[0], directory, 1)


@pytest.mark.parametrize("full", ["0:4", "1:2", "3:8", "4:19", "9:10", "9:11", "18:99"])
def test_a_run_ends_equal_to_one_whose_disk_had_room(
    tmp_path: Path, rank_pool: RankPool, prepared: Path, whole: list[Row], monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    run = ranks(rank_pool, prepared, tmp_path)
    monkeypatch.setenv("FULL", full)
    run.start(program=("-m", "tests.e2e.full_now_and_then"))
    run.end(time.monotonic() + PATIENCE)
    to_the_end = full.endswith(":99")
    assert set(run.codes.values()) == {EXIT_FAILED if to_the_end else EXIT_DONE}, run.log()
    assert run.run_dir.read_status() is (Status.FAILED if to_the_end else Status.DONE), run.log()
    assert "Traceback" not in run.log()
    if to_the_end:
        assert run.run_dir.latest.read_text().strip() != "step_000000020", "the last checkpoint found no room"
        rows = run.finish()
    else:
        rows = [(row["kind"], row["step"], row["loss"]) for row in rows_of(run.run_dir.metrics)]
        assert full not in ("4:19", "9:11") or run.events("records_waited"), "rows have waited"
    assert rows == whole
