"""Adaptive softmax and adaptive input against torch's and against their definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.model import AdaptiveConfig, ModelConfig, parse_model
from trainer.config.parallel import Degrees, check_model_splits
from trainer.contract.errors import UserError
from trainer.models.build import build_model, make_model
from trainer.models.common.adaptive import AdaptiveHead
from trainer.models.ends import count_ends
from trainer.models.roles import role_of
from trainer.plan.counting import count_parameters

VOCAB, WIDTH, CUTOFFS = 50, 16, (8, 20)


def words(rows: int = 3, length: int = 7) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def config(**changes: object) -> ModelConfig:
    values = {"family": "recurrent", "d_model": WIDTH, "n_layers": 1, "vocab_size": VOCAB, "context_length": 8}
    return parse_model({**values, "adaptive": {"cutoffs": list(CUTOFFS), "factor": 2}, **changes})


TIED = {"adaptive": {"cutoffs": list(CUTOFFS), "factor": 2, "input": True}}


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("targets", [None, [0, 7, 3]], ids=["everywhere", "first band only"])
def test_the_head_equals_torchs(factor: int, targets: list[int] | None) -> None:
    peer = nn.AdaptiveLogSoftmaxWithLoss(WIDTH, VOCAB, list(CUTOFFS), div_value=factor).double()
    ours = AdaptiveHead(AdaptiveConfig(cutoffs=CUTOFFS, factor=factor).bands(VOCAB, WIDTH), WIDTH).double()
    with torch.no_grad():
        ours.short.weight.copy_(peer.head.weight[: CUTOFFS[0]])
        ours.classes.weight.copy_(peer.head.weight[CUTOFFS[0] :])
        for down, tail, theirs in zip(ours.down, ours.tails, peer.tail, strict=True):
            down.weight.copy_(theirs[0].weight.t())
            tail.weight.copy_(theirs[1].weight)
    hidden = torch.randn(3, 7, WIDTH, dtype=torch.float64, requires_grad=True)
    copy = hidden.detach().clone().requires_grad_()
    wanted = words() if targets is None else torch.tensor(targets).repeat(3, 3)[:, :7]
    losses, theirs = ours(hidden, wanted), -peer(copy.flatten(0, 1), wanted.flatten()).output
    torch.testing.assert_close(losses.flatten().float(), theirs.float(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        ours(hidden).flatten(0, 1).float(), peer.log_prob(copy.flatten(0, 1)).float(), atol=1e-5, rtol=1e-6
    )
    losses.mean().backward()
    theirs.mean().backward()
    torch.testing.assert_close(hidden.grad, copy.grad, atol=1e-7, rtol=1e-5)
    gradient = torch.cat([ours.short.weight.grad, ours.classes.weight.grad])
    torch.testing.assert_close(gradient, peer.head.weight.grad, atol=1e-7, rtol=1e-5)
    for down, tail, theirs in zip(ours.down, ours.tails, peer.tail, strict=True):
        assert down.weight.grad is not None, "a band without targets is asked for all the same"
        if targets is None:
            torch.testing.assert_close(down.weight.grad.t(), theirs[0].weight.grad, atol=1e-7, rtol=1e-5)
            torch.testing.assert_close(tail.weight.grad, theirs[1].weight.grad, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("changes", [{"tied_embeddings": False}, TIED, {**TIED, "tied_embeddings": False}], ids=str)
def test_losses_are_those_of_the_log_probabilities(changes: dict) -> None:
    model, text = build_model(config(**changes), 0).eval(), words()
    with torch.no_grad():
        log_probabilities = model(text)
        losses = model(text, text.roll(-1, 1))
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(3, 7))
    picked = -log_probabilities.gather(2, text.roll(-1, 1)[..., None]).squeeze(2)
    torch.testing.assert_close(losses, picked, atol=1e-6, rtol=1e-6)
    assert log_probabilities.shape == (3, 7, VOCAB)


def test_the_embedding_is_a_table_and_a_matrix_for_each_band() -> None:
    model, text = build_model(config(**TIED), 0), words()
    rows = []
    for table, up in zip(model.embed.tables, model.embed.up, strict=True):
        rows.append(table.weight @ up.weight.t())
    whole = torch.cat(rows)
    torch.testing.assert_close(model.embed(text), F.embedding(text, whole))


def test_tied_ends_are_one_set_of_parameters() -> None:
    model = build_model(config(**TIED), 0)
    assert model.head.short.weight is model.embed.tables[0].weight
    assert model.head.tails[1].weight is model.embed.tables[2].weight
    assert model.head.down[0].weight is model.embed.up[1].weight
    names = [name for name, _ in model.named_parameters() if name.startswith("head")]
    assert names == ["head.classes.weight"]


@pytest.mark.parametrize("changes", [{"tied_embeddings": False}, TIED, {**TIED, "tied_embeddings": False}], ids=str)
def test_ends_are_counted_and_have_roles(changes: dict) -> None:
    with torch.device("meta"):
        model = make_model(config(**changes))
    held = {"embed": 0, "head": 0, "blocks": 0}
    for name, parameter in model.named_parameters():
        role_of(model.roles, name)
        held[name.split(".")[0]] += parameter.numel()
    ends = count_ends(model.config)
    assert (held["embed"], held["head"]) == (ends.embedding, ends.head)
    assert 8 + 2 < ends.logits < VOCAB


def test_smoothing_spreads_over_all_words() -> None:
    head = build_model(config(tied_embeddings=False), 0).head
    hidden, text = torch.randn(3, 7, WIDTH), words()
    with torch.no_grad():
        logits = head(hidden).flatten(0, 1)
        wanted = F.cross_entropy(logits, text.flatten(), reduction="none", label_smoothing=0.1)
        torch.testing.assert_close(head(hidden, text, 0.1).flatten(), wanted)
        torch.testing.assert_close(head(hidden, text, (0.1, 0.0)).flatten(), wanted)
    for terms, softcap in (((0.0, 1e-4), None), (0.0, 30.0)):
        with pytest.raises(UserError, match=r"leave model\.adaptive out"):
            head(hidden, text, terms, softcap)


@pytest.mark.parametrize("tied", [True, False])
def test_the_transformer_has_such_ends_too(tied: bool) -> None:
    values = {"d_model": WIDTH, "n_layers": 2, "n_heads": 2, "vocab_size": VOCAB, "context_length": 8}
    model = build_model(parse_model({**values, **TIED, "tied_embeddings": tied}), 0).eval()
    count = count_parameters(model.config)
    assert count.total == sum(parameter.numel() for parameter in model.parameters())
    state = model.initial_state()
    with torch.no_grad():
        whole, parts = model(words()), [model(part, state=state) for part in words().split([2, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"set tied_embeddings to false, or adaptive\.input to true"):
        config()
    with pytest.raises(ValueError, match="the last of the cutoffs, 60, is not below the vocabulary of 50"):
        config(adaptive={"cutoffs": [60]}, tied_embeddings=False)
    with pytest.raises(ValueError, match="do not ascend"):
        config(adaptive={"cutoffs": [20, 8]}, tied_embeddings=False)
    with pytest.raises(ValueError, match="need a width of 64"):
        config(adaptive={"cutoffs": [8, 20, 30]}, tied_embeddings=False)
    with pytest.raises(UserError, match="cannot be split over 2 tensor ranks"):
        check_model_splits(config(tied_embeddings=False), Degrees(1, 1, 2))
