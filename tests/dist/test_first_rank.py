"""One rank reads what others may change; all get what it read."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tests.dist.pool import RankError, RankPool
from trainer.errors import UserError
from trainer.parallel.first_rank import from_first_rank


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
