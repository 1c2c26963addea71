"""One rank reads what others may change; all get what it read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.dist.pool import RankError, RankPool
from tests.dist.runs import tiny
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir
from trainer.parallel.first_rank import agreed, from_first_rank, to_first_rank


def config_read_at_another_time(root: str) -> float:
    """Return the learning rate that this rank trains with where the first alone has read the newest config.yaml."""
    from trainer.session import agreed_config

    mine = tiny(optim={"lr": 3e-3 if dist.get_rank() == 0 else 1e-3})
    idle = mine.guard.model_copy(update={"patience": 7})  # of a run that began when this was not refused
    mine = mine.model_copy(update={"guard": idle})
    return float(agreed_config(mine, RunDir(Path(root)), torch.device("cpu")).optim.lr)


def test_all_train_with_the_configuration_that_the_first_read(ranks: RankPool, tmp_path: Path) -> None:
    assert ranks.run(2, config_read_at_another_time, str(tmp_path)) == [3e-3, 3e-3]


def own_and_others() -> tuple[list[str], str]:
    rank = dist.get_rank()
    heard = to_first_rank("" if rank == 1 else f"règle {rank}" * (1 + rank), torch.device("cpu"))
    try:
        agreed(str(rank % 2), torch.device("cpu"), lambda clauses: "; ".join(clauses))
    except UserError as error:
        return heard, str(error)
    return heard, ""


def test_the_first_hears_all_and_all_hear_who_disagrees(ranks: RankPool) -> None:
    results = ranks.run(3, own_and_others)
    assert [heard for heard, _ in results] == [["règle 0", "", "règle 2" * 3], [], []]
    assert {error for _, error in results} == {"ranks 0, 2: 0; rank 1: 1"}


def own_text() -> str:
    return from_first_rank(lambda: f"règle {dist.get_rank()} " + "x" * 100_000, torch.device("cpu"))


def refusal() -> str:
    def refuse() -> str:
        raise UserError("nothing is there")

    try:
        return from_first_rank(refuse, torch.device("cpu"))
    except UserError as error:
        return f"refused: {error}"


def test_all_get_what_the_first_said(ranks: RankPool) -> None:
    assert ranks.run(3, own_text) == ["règle 0 " + "x" * 100_000] * 3
    assert ranks.run(1, own_text) == ["règle 0 " + "x" * 100_000]


def test_all_refuse_what_the_first_refuses(ranks: RankPool) -> None:
    assert ranks.run(2, refusal) == ["refused: nothing is there"] * 2


def broken() -> str:
    return from_first_rank(lambda: str(1 // 0), torch.device("cpu"))


def test_a_bug_in_the_first_does_not_leave_the_others_waiting(ranks: RankPool) -> None:
    with pytest.raises(RankError, match="ZeroDivisionError"):
        ranks.run(2, broken, timeout=90)


def found_where(has_triton: tuple[bool, ...]) -> bool:
    from unittest.mock import patch

    from trainer.engine import compiled

    with patch.object(compiled, "HAS_TRITON", has_triton[dist.get_rank()]):
        return compiled.can_compile(torch.device("cpu"))


@pytest.mark.parametrize("has_triton", [(True, True), (True, False)])
def test_all_ranks_compile_or_none(ranks: RankPool, has_triton: tuple[bool, ...]) -> None:
    """Gradients of a compiled rank and one that is not come in different orders, and are summed as they come."""
    assert ranks.run(2, found_where, has_triton) == [all(has_triton)] * 2
