"""What the engine promises beside parity: skipping together, feeding checked, logits never whole, evaluation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.dist.pool import RankPool
from tests.dist.runs import VOCAB, MicroBatch, global_batch, micro_batches, tiny
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError


def open_engine(config: RunConfig) -> Any:
    from trainer.engine.build import build_engine
    from trainer.models.build import build_model
    from trainer.parallel.start import start

    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    return build_engine(config, build_model(config.model, 0), mesh, lr=1.0, accumulation=1, device=device)


def batch_of(engine: Any, step: int) -> list[MicroBatch]:
    return micro_batches(global_batch(step), engine.mesh.dp_rank, engine.mesh.dp_size, 1)


def skip_one(config: RunConfig) -> dict[str, Any]:
    """Take a step whose third has one weight of NaN on one data rank; return outcomes and what the skip changed."""

    engine = open_engine(config)
    outcomes, changed = [], None
    for step in range(4):
        (batch,) = batch_of(engine, step)
        weights = torch.ones(batch.targets.shape)
        if step == 2 and engine.mesh.dp_rank == 1:
            weights[0, 0] = math.nan
        before = [f.weight.clone() for f in engine.sharded.fragments()]
        outcome = engine.train_step([MicroBatch(batch.inputs, batch.targets, weights)], 1e-3)
        outcomes.append((outcome.skipped, math.isfinite(outcome.grad_norm)))
        if step == 2:
            changed = any(not torch.equal(a, f.weight) for a, f in zip(before, engine.sharded.fragments(), strict=True))
    engine.close()
    return {"outcomes": outcomes, "changed": changed}


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_all_ranks_skip_what_is_not_finite_on_one(ranks: RankPool, zero_stage: int) -> None:
    for result in ranks.run(4, skip_one, tiny(parallel={"tensor": 2, "zero_stage": zero_stage})):
        assert result["outcomes"] == [(False, True), (False, True), (True, False), (False, True)]
        assert result["changed"] is False


def feed_wrongly(mistake: str) -> str:
    """Feed tokens by world rank, or the same tokens to every rank; return the error."""
    engine = open_engine(tiny(parallel={"tensor": 2}))
    rank, world = (engine.mesh.rank, 4) if mistake == "by world rank" else (0, 1)
    with pytest.raises(RuntimeError) as caught:
        engine.train_step(micro_batches(global_batch(0), rank, world, 1), 1e-3)
    engine.close()
    return str(caught.value)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [("by world rank", "was fed other tokens than"), ("all the same", "were fed the same tokens")],
)
def test_wrong_feeding_is_found_in_the_first_step(ranks: RankPool, mistake: str, expected: str) -> None:
    for error in ranks.run(4, feed_wrongly, mistake):
        assert expected in error


def look_up(config: RunConfig, token: int, where: str, training: bool) -> str:
    """Return what the engine says to a token that no row of the embedding is for."""
    engine = open_engine(config)
    (batch,) = batch_of(engine, 0)
    getattr(batch, where)[0, 3] = token
    try:
        engine.train_step([batch], 1e-3) if training else engine.token_losses(batch)
    except UserError as error:
        return str(error)
    finally:
        engine.close()
    return "nothing"


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize(
    ("token", "where", "training"), [(64, "inputs", True), (1797, "targets", False), (-1, "inputs", True)]
)
def test_a_token_without_a_row_is_refused_on_any_layout(
    ranks: RankPool, tensor: int, token: int, where: str, training: bool
) -> None:
    """Tensor ranks mask the ids that others hold, so an id that nobody holds would be trained on as zeros."""
    config = tiny(
        parallel={"tensor": tensor}, model={"vocab_multiple_of": 48}
    )  # rows beyond the vocabulary are no help
    answers = ranks.run(tensor, look_up, config, token, where, training)
    assert all(f"holds token {token}, outside the model's vocabulary of 64" in answer for answer in answers)


def largest_tensors(config: RunConfig) -> tuple[int, int]:
    """Return the widest last dimension and the most elements of any tensor that training and evaluation make."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Sizes(TorchDispatchMode):
        widest = most = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor) and leaf.dim() >= 2 and leaf.is_floating_point():
                    self.widest, self.most = max(self.widest, leaf.shape[-1]), max(self.most, leaf.numel())
            return out

    engine = open_engine(config)
    with Sizes() as sizes:
        engine.train_step(batch_of(engine, 0), 1e-3)
        engine.token_losses(global_batch(0))
    engine.close()
    return sizes.widest, sizes.most


@pytest.mark.parametrize("tensor", [2, 4])
@pytest.mark.parametrize("model", [{}, {"tied_embeddings": False}])
def test_whole_logits_never_exist(ranks: RankPool, tensor: int, model: dict[str, Any]) -> None:
    """A rank holds its words' logits and nothing larger: neither (B, T, V) nor a gather of it in any shape."""
    vocab = 4096
    config = tiny(
        model={"vocab_size": vocab, **model},
        optim={"label_smoothing": 0.1},
        parallel={"tensor": tensor, "zero_stage": 0},
    )
    share = vocab // tensor
    assert ranks.run(tensor, largest_tensors, config) == [(share, global_batch(0).targets.numel() * share)] * tensor


def smoothed(smoothing: float, z_loss: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses and the gradient of this rank's half of the logits."""
    import torch.distributed as dist

    from trainer.models.common.head import LossTerms
    from trainer.parallel.tensor.vocab_loss import VocabularyParallelLoss

    logits, targets = logits_and_targets()
    half = VOCAB // 2
    mine = logits[..., dist.get_rank() * half : (dist.get_rank() + 1) * half].clone().requires_grad_()
    losses = VocabularyParallelLoss(dist.group.WORLD, dist.get_rank())(mine, targets, LossTerms(smoothing, z_loss))
    (losses * torch.arange(1.0, 1 + losses.numel()).view_as(losses)).sum().backward()
    assert mine.grad is not None
    return losses.detach(), mine.grad


def logits_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return 30 * torch.randn(2, 5, VOCAB, generator=random), torch.randint(VOCAB, (2, 5), generator=random)


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.1, 0.01)])
def test_vocabulary_parallel_loss(ranks: RankPool, smoothing: float, z_loss: float) -> None:
    logits, targets = logits_and_targets()
    logits.requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=smoothing
    ).view_as(targets)
    expected = expected + z_loss * torch.logsumexp(logits, dim=-1) ** 2
    (expected * torch.arange(1.0, 11.0).view_as(expected)).sum().backward()
    results = ranks.run(2, smoothed, smoothing, z_loss)
    for losses, _ in results:
        assert torch.allclose(losses, expected, atol=1e-5)
    assert logits.grad is not None
    assert torch.allclose(torch.cat([gradient for _, gradient in results], dim=-1), logits.grad, atol=1e-5)


def time_outs(config: RunConfig) -> set[float]:
    """Return in seconds how long each process group of this rank waits, once the engine is built."""
    from torch.distributed import distributed_c10d

    engine = open_engine(config)
    groups = list(distributed_c10d._world.pg_map)
    assert len(groups) > 3
    found = {group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups}
    engine.close()
    return found


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_no_process_group_waits_longer_than_configured(ranks: RankPool, zero_stage: int) -> None:
    """Nor shorter: the pool began this world with another time-out, as a user's own script may."""
    config = tiny(parallel={"tensor": 2, "zero_stage": zero_stage, "timeout_seconds": 77})
    assert ranks.run(4, time_outs, config) == [{77.0}] * 4


def evaluate(config: RunConfig) -> torch.Tensor:
    engine = open_engine(config)
    losses: torch.Tensor = engine.token_losses(global_batch(0))
    assert engine.module.training
    engine.close()
    return losses


def test_evaluation_is_the_same_on_every_rank_and_layout(ranks: RankPool) -> None:
    """Without dropout and label smoothing, which belong to training alone."""
    (expected,) = ranks.run(1, evaluate, tiny())
    training = {"model": {"dropout": 0.5}, "optim": {"label_smoothing": 0.2}}
    assert torch.equal(ranks.run(1, evaluate, tiny(**training))[0], expected)
    config = tiny(**training, parallel={"tensor": 2, "sequence": 2, "zero_stage": 3})
    for losses in ranks.run(4, evaluate, config):
        assert torch.allclose(losses, expected, atol=2e-6)


def skip_above(config: RunConfig) -> dict[str, Any]:
    """Take steps whose third is above the limit of the norm and whose fifth above that of the loss."""
    from trainer.guard.spikes import Limits

    engine = open_engine(config)
    outcomes, changed = [], []
    limits = {2: Limits(grad_norm=1e-4), 4: Limits(loss=1e-4)}
    for step in range(6):
        before = [f.weight.clone() for f in engine.sharded.fragments()]
        outcome = engine.train_step(batch_of(engine, step), 1e-3, limits.get(step, Limits()))
        after = [f.weight for f in engine.sharded.fragments()]
        changed.append(any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
        outcomes.append((outcome.skipped, outcome.loss, outcome.grad_norm))
    counters = engine.sharded.counters()
    engine.close()
    return {"outcomes": outcomes, "changed": changed, "counters": counters}


@pytest.mark.parametrize(
    ("engine", "zero_stage", "tensor"),
    [*(("deepspeed", *layout) for layout in [(0, 2), (1, 2), (2, 1), (3, 2)]), ("fsdp", 1, 1), ("fsdp", 3, 2)],
)
def test_all_ranks_skip_what_is_above_a_limit(ranks: RankPool, engine: str, zero_stage: int, tensor: int) -> None:
    """Neither parameters nor moments move, the norm is told, and the next steps are those of the other layouts."""
    (alone,) = ranks.run(1, skip_above, tiny())
    parallel = {"engine": engine, "tensor": tensor, "zero_stage": zero_stage}
    for result in ranks.run(4, skip_above, tiny(parallel=parallel)):
        assert result["changed"] == [True, True, False, True, False, True]
        assert [skipped for skipped, _, _ in result["outcomes"]] == [False, False, True, False, True, False]
        for mine, plain in zip(result["outcomes"], alone["outcomes"], strict=True):
            assert mine[1:] == pytest.approx(plain[1:], rel=1e-4)
        assert result["counters"]["step"] == alone["counters"]["step"] == 4


def measure(config: RunConfig) -> list[Any]:
    """Take steps and measure the first and the third; return (gradient norm, measured) and the norms by hand."""
    from trainer.engine.norms import Norms

    engine = open_engine(config)
    norms, found = Norms(engine, activations=True), []
    for step in range(3):

        def take(step: int = step) -> Any:
            return engine.train_step(batch_of(engine, step), 1e-3)

        if step != 1:
            outcome, measured = norms.around(take)
            found.append((outcome.grad_norm, measured))
        else:
            take()
    engine.close()
    return found


@pytest.mark.parametrize(
    "parallel",
    [
        {"zero_stage": 1},
        {"tensor": 2, "zero_stage": 3},
        {"tensor": 2, "zero_stage": 0},
        {"engine": "fsdp", "tensor": 2, "zero_stage": 3},
        {"engine": "fsdp", "zero_stage": 1},
    ],
)
def test_norms_by_kind_are_those_of_the_whole(ranks: RankPool, parallel: dict[str, Any]) -> None:
    """Their squares sum to the engine's norm, and any layout gives those of one process."""
    (alone,) = ranks.run(1, measure, tiny())
    for grad_norm, measured in alone:
        squares = sum(norm**2 for norm in measured["grad_norms"].values())
        assert math.sqrt(squares) == pytest.approx(grad_norm, rel=1e-4) and grad_norm > 0.5, "it was clipped"
        assert set(measured["param_norms"]) == set(measured["update_norms"]) == set(measured["grad_norms"])
        assert set(measured["activation_rms"]) == {"0", "1"}
    for (_, mine), (_, plain) in zip(ranks.run(4, measure, tiny(parallel=parallel))[3], alone, strict=True):
        for what in ("grad_norms", "param_norms", "update_norms"):
            assert mine[what] == pytest.approx(plain[what], rel=2e-3), what
