"""A disk that is full at each write of a save in turn: that checkpoint is lost at most, and nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.dist.keeper_runs import names
from tests.dist.pool import RankPool
from tests.dist.runs import global_batch, micro_batches, tiny
from trainer.checkpoint.search import problem_with
from trainer.config.run import RunConfig
from trainer.contract.run_dir import RunDir


class FullDisk:
    """Counts what a save writes, and refuses one write of a rank."""

    def __init__(self) -> None:
        self.writes, self.refused, self.at = 0, "", -1

    def write(self, what: str) -> None:
        if self.writes == self.at:
            self.refused = what
            raise OSError(errno.ENOSPC, "No space left on device", what)
        self.writes += 1

    @contextmanager
    def full_at(self, at: int) -> Iterator[None]:
        """Refuse the `at`-th write of the block; none for -1."""
        self.writes, self.refused, self.at = 0, "", at
        yield
        self.at = -1


def watch_writes(disk: FullDisk) -> Callable[[], None]:
    """Have every file that a save opens, syncs or renames ask the disk first; return how to end it."""
    import trainer.checkpoint.save as saving

    former = (saving.save_file, os.fsync, Path.open, Path.mkdir, Path.rename, Path.replace)
    save_file, fsync, open_path, mkdir, rename, replace = former

    def asking(what: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any, **keywords: Any) -> Any:
            disk.write(f"{what} {arguments[0] if what != 'save_file' else arguments[1]}")
            return action(*arguments, **keywords)

        return ask

    def open_asking(path: Path, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        if mode != "r" and mode != "rb":
            disk.write(f"open {path}")
        return open_path(path, mode, *arguments, **keywords)

    saving.save_file, os.fsync = asking("save_file", save_file), asking("fsync", fsync)
    Path.open, Path.mkdir = open_asking, asking("mkdir", mkdir)  # type: ignore[assignment,method-assign]
    Path.rename, Path.replace = asking("rename", rename), asking("replace", replace)  # type: ignore[method-assign]

    def end() -> None:
        saving.save_file, os.fsync, Path.open, Path.mkdir, Path.rename, Path.replace = former  # type: ignore

    return end


Outcome = tuple[str, list[str], list[str]]  # the write that was refused, the checkpoints after it, their problems


def save_with_each_write_refused(config: RunConfig, root: str, full_rank: int) -> list[Outcome]:
    """Save twice after each step: with the next write refused on one rank, then with room."""
    import torch

    from trainer.checkpoint.keeper import Keeper
    from trainer.engine.build import build_engine
    from trainer.guard.fence import Fence
    from trainer.models.build import build_model
    from trainer.parallel.start import start

    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    engine = build_engine(config, build_model(config.model, 0), mesh, lr=1.0, accumulation=1, device=device)
    run_dir = RunDir(Path(root))
    keeper = Keeper(
        engine, config.checkpoint, run_dir, fence=Fence(run_dir), keep_every_steps=None, identity={},
        event=lambda name, **values: None,
    )  # fmt: skip
    keeper.restore()
    disk, found = FullDisk(), []
    end = watch_writes(disk)
    try:
        for at in range(1000):
            step = 2 * at + 1
            engine.train_step(micro_batches(global_batch(at), mesh.dp_rank, mesh.dp_size, 1), 3e-3)
            with disk.full_at(at if mesh.rank == full_rank else -1):
                keeper.save(step)
            problems = [str(problem_with(path)) for path in run_dir.checkpoints.glob("step_*") if problem_with(path)]
            left = [path.name for path in run_dir.checkpoints.glob(".step_*")]
            found.append((disk.refused, names(Path(root)), problems + left))
            more = any_rank(engine, bool(disk.refused))  # no rank goes on before all have looked
            keeper.save(step + 1)
            if not more:
                return found
    finally:
        end()
        keeper.close()
        engine.close()
    raise AssertionError("a save has no end of writes")


def any_rank(engine: Any, mine: bool) -> bool:
    """Return whether any rank says yes."""
    from trainer.parallel.first_rank import from_first_rank, to_first_rank

    said = to_first_rank(str(int(mine)), engine.device)
    return bool(int(from_first_rank(lambda: max(said), engine.device)))


@pytest.mark.parametrize("full_rank", [0, 1])
def test_no_refused_write_costs_more_than_its_own_checkpoint(ranks: RankPool, tmp_path: Path, full_rank: int) -> None:
    config = tiny(checkpoint={"asynchronous": False, "keep_last": 2})
    results = ranks.run(2, save_with_each_write_refused, config, str(tmp_path), full_rank, timeout=240)
    refused = [what for what, _, _ in results[full_rank]]
    assert refused[-1] == "" and all(refused[:-1])  # each write was refused once
    assert len(refused) > (8 if full_rank == 0 else 2)
    for at, (what, kept, problems) in enumerate(results[0]):
        assert not problems, f"{results[full_rank][at][0]}: {problems}"
        assert len(kept) >= min(at, 1), f"{what}: no checkpoint is left"
        newest = 2 * at + 1
        assert at == 0 or f"step_{newest - 1:09d}" in kept, f"{what}: the former checkpoint is gone"
    assert names(tmp_path)[-1] == f"step_{2 * len(refused):09d}"
