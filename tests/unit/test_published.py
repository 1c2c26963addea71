"""What holds for the families that reproduce papers: counts, roles, causality, states, documents, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.config.base import parse_section
from trainer.config.model import ModelConfig, parse_model
from trainer.config.parallel import Degrees, ParallelConfig
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.models.build import build_model, make_model
from trainer.models.common.weight_norm import WeightNormLinear
from trainer.models.interface import LanguageModel
from trainer.models.registry import cost_of
from trainer.models.roles import role_of
from trainer.plan.activations import activations
from trainer.plan.counting import count_flops, count_parameters
from trainer.plan.plan import make_plan

VOCAB, T, ROWS = 61, 24, 3
LSTM: dict[str, Any] = {"family": "recurrent", "d_model": 16, "widths": [24, 32, 16]}
QRNN = {**LSTM, "cell": "qrnn", "window": 2}
GCNN = {
    "family": "convolutional", "d_model": 12, "tied_embeddings": False,
    "blocks": [{"layers": [[3, 16]], "repeat": 2}, {"layers": [[1, 8], [2, 8], [1, 24]]}],
}  # fmt: skip
TCN = {
    "family": "convolutional", "d_model": 16, "unit": "relu", "dilation": 2,
    "blocks": [{"layers": [[2, 16], [2, 16]], "repeat": 3}],
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "lstm": LSTM,
    "lstm, untied": {**LSTM, "tied_embeddings": False},
    "lstm, projected": {**LSTM, "widths": [24, 40]},
    "lstm, adaptive": {**LSTM, "adaptive": {"cutoffs": [10, 30], "factor": 2, "input": True}},
    "qrnn": QRNN,
    "gcnn": GCNN,
    "gcnn, adaptive": {**GCNN, "adaptive": {"cutoffs": [10, 30], "factor": 2}},
    "tcn": TCN,
    "tcn, no weight norm": {**TCN, "weight_norm": False},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def config_of(kind: str, **changes: Any) -> ModelConfig:
    return parse_model({"vocab_size": VOCAB, "context_length": T, **KINDS[kind], **changes})


def built(kind: str, **changes: Any) -> LanguageModel:
    """Return a model in evaluation whose every parameter matters."""
    model = build_model(config_of(kind, **changes), seed=3).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


def tokens(seed: int = 0, length: int = T) -> Tensor:
    return torch.randint(0, VOCAB, (ROWS, length), generator=torch.Generator().manual_seed(seed))


@every_kind
def test_counted_parameters_are_those_of_the_module_and_have_roles(kind: str) -> None:
    config = config_of(kind)
    with torch.device("meta"):
        model = make_model(config)
    count = count_parameters(config)
    assert count.total == count.replicated == sum(p.numel() for p in model.parameters())
    for name, parameter in model.named_parameters():
        role = role_of(model.roles, name)
        assert not role.parts or sum(role.parts) == parameter.shape[0]
        assert role.fan_in is None or name.startswith(("embed", "head.down")) or role.fan_in == parameter.shape[1]
        assert role.group != "matrix" or parameter.dim() == 2


@every_kind
def test_no_token_sees_the_future(kind: str) -> None:
    model = built(kind)
    for place in (1, 7, T - 1):
        first, second = tokens(), tokens()
        second[:, place:] = (second[:, place:] + 1) % VOCAB
        with torch.no_grad():
            before, after = model(first), model(second)
        torch.testing.assert_close(before[:, :place], after[:, :place], atol=1e-6, rtol=1e-5)
        assert not torch.allclose(before[:, place], after[:, place], atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(1, T - 1), max_size=5, unique=True).map(sorted), kind=st.sampled_from(sorted(KINDS))
)  # fmt: skip
def test_chunks_with_a_state_equal_one_pass(cuts: list[int], kind: str) -> None:
    model, text = built(kind).double(), tokens()
    state = model.initial_state()
    with torch.no_grad():
        parts = [model(part, state=state) for part in text.tensor_split(cuts, dim=1)]
        whole = model(text)
    close = {"atol": 1e-5, "rtol": 1e-5} if "adaptive" in kind else {"atol": 1e-10, "rtol": 1e-10}  # float32 head
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, **close)
    assert all(tensor.shape[0] == ROWS for layer in state.layers for tensor in layer.values())


@every_kind
@pytest.mark.parametrize("cuts", [[10], [1, 2, 9, 23]], ids=str)
def test_documents_do_not_see_each_other(kind: str, cuts: list[int]) -> None:
    model, text = built(kind).double(), tokens()
    borders = torch.zeros(ROWS, T, dtype=torch.int32)
    borders[:, cuts] = 1
    documents = borders.cumsum(1).int()
    with torch.no_grad():
        together = model(text, documents=documents)
        alone = torch.cat([model(part) for part in text.tensor_split(cuts, dim=1)], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@every_kind
def test_ranks_that_cannot_share_it_are_refused(kind: str) -> None:
    config = config_of(kind)
    check = cost_of(config.family).check_splits
    with pytest.raises(UserError, match=r"cannot be split over 2 tensor ranks: set parallel\.tensor to 1"):
        check(config, Degrees(1, 1, 2))
    with pytest.raises(UserError, match=r"cannot be split over 2 sequence ranks: set parallel\.sequence to 1"):
        check(config, Degrees(1, 2, 1))


@every_kind
def test_it_is_planned(kind: str) -> None:
    values = {"model": config_of(kind), "data": {"document_mask": True}, "batch": {"tokens_per_step": 2 * T}}
    plan = make_plan(parse_section(RunConfig, {**values, "steps": 2}, "test"), world=1)
    flops = count_flops(config_of(kind))
    assert plan.flops_per_token["total"] == flops.total and flops.attention == 0
    shape = cost_of(config_of(kind).family).step_shape(config_of(kind))
    linear = sum(product.outputs * product.inputs for mixer, _ in shape.mixers for product in mixer.products)
    assert 6 * linear <= flops.body <= 6 * count_parameters(config_of(kind)).body


@pytest.mark.parametrize("kind", ["lstm", "qrnn", "gcnn", "tcn"])
def test_planned_activations_are_those_that_are_kept(kind: str) -> None:
    """The head's logits and what is as long as a batch's words are left out."""
    long = {"context_length": 64}
    config, model = config_of(kind, **long), build_model(config_of(kind, **long), 0)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    text = tokens(length=64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden(text, None, None, None)
    planned = activations(config, ParallelConfig(), bytes_per_value=4, gpu=False)
    kept = sum(seen.values()) - text.nbytes
    assert kept == pytest.approx((planned.layers + planned.ends) * text.numel(), rel=0.12)


def test_its_lstm_is_torchs() -> None:
    model, text = built("lstm, untied"), tokens()
    x = model.embed(text)
    for block in model.blocks:
        cell: Any = block.mixer
        peer = nn.LSTM(cell.input.shape[1], cell.recurrent.shape[1], batch_first=True)
        with torch.no_grad():
            peer.weight_ih_l0.copy_(cell.input)
            peer.weight_hh_l0.copy_(cell.recurrent)
            peer.bias_ih_l0.copy_(cell.bias)
            peer.bias_hh_l0.zero_()
        x = peer(x)[0]
    torch.testing.assert_close(model(text), x @ model.head.weight.t(), atol=1e-5, rtol=1e-5)


def test_its_convolutions_are_torchs() -> None:
    model, text = built("tcn"), tokens()
    x = model.embed(text).transpose(1, 2)
    for number, block in enumerate(model.blocks):
        y = x
        for linear in block.mixer:
            peer = nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 16, 2, dilation=2**number))
            with torch.no_grad():
                peer.parametrizations.weight.original0.copy_(linear.length.view(-1, 1, 1))
                peer.parametrizations.weight.original1.copy_(linear.direction.view(16, 2, 16).transpose(1, 2))
                peer.bias.copy_(linear.bias)
            # Our norm is over a row, torch's over the same numbers in another order.
            y = torch.relu(peer(nn.functional.pad(y, (2**number, 0))))
        x = torch.relu(x + y)
    torch.testing.assert_close(model(text), x.transpose(1, 2) @ model.embed.weight.t(), atol=1e-4, rtol=1e-4)


def test_weight_norm_begins_where_directions_have_their_length() -> None:
    layer = WeightNormLinear(6, 5)
    with torch.no_grad():
        layer.direction.normal_()
        layer.length.copy_(layer.direction.norm(dim=1))
        layer.bias.zero_()
        x = torch.randn(4, 6)
        torch.testing.assert_close(layer(x), x @ layer.direction.t())


AWD = {
    "variational": True, "dropout": 0.4, "input_dropout": 0.3, "hidden_dropout": 0.2, "word_dropout": 0.5,
    "weight_drop": 0.5, "activation_penalty": 2.0, "slowness_penalty": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["lstm", "qrnn"])
def test_dropout_is_of_training_only_and_repeats(kind: str) -> None:
    model, text = build_model(config_of(kind, **AWD), 0), tokens()
    plain = build_model(config_of(kind), 0)
    torch.testing.assert_close(model.eval()(text, text), plain.eval()(text, text), atol=0, rtol=0)
    model.train()
    torch.manual_seed(1)
    first = model(text, text)
    torch.manual_seed(1)
    assert torch.equal(first, model(text, text))
    assert not torch.equal(first, model(text, text))


def test_what_is_dropped_is_what_is_said() -> None:
    model = build_model(config_of("lstm", **AWD), 0).train()
    x = torch.ones(4, T, 16)
    locked = model.input_dropout(x)
    assert torch.equal(locked, locked[:, :1].expand_as(locked)), "all tokens of a sequence alike"
    assert not torch.equal(locked[0], locked[1])
    assert locked.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    words = torch.arange(VOCAB).repeat(4, 1)
    dropped = model.word_dropout(torch.ones(4, VOCAB, 16), words)
    assert torch.equal(dropped, dropped[:1, :, :1].expand_as(dropped)), "a word is dropped wherever it stands"
    assert set(dropped.unique().tolist()) == {0.0, 2.0}


def test_weights_are_dropped_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(config_of("lstm", weight_drop=0.5), 0).train()
    twin = build_model(config_of("lstm"), 0).train()
    for block, other in zip(model.blocks, twin.blocks, strict=True):
        torch.manual_seed(7)
        mask = nn.functional.dropout(torch.ones_like(block.mixer.recurrent), 0.5)
        with torch.no_grad():
            other.mixer.recurrent.mul_(mask)
        torch.manual_seed(7)
        x = torch.randn(2, T, block.mixer.input.shape[1], generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(block.mixer(x, _context()), other.mixer(x, _context()))


def _context() -> Any:
    from trainer.models.interface import Context

    return Context(torch.arange(T))


def test_penalties_join_the_gradient_and_not_the_loss() -> None:
    model, plain = (
        build_model(config_of("lstm", **changes), 0).train()
        for changes in ({"activation_penalty": 2.0, "slowness_penalty": 1.0}, {})
    )
    text = tokens()
    losses, wanted = model(text, text), plain(text, text)
    assert torch.equal(losses, wanted)
    losses.mean().backward()
    h = plain.embed(text)
    for block in plain.blocks:
        h = block.mixer(h, _context())
    # as in the code of AWD-LSTM: means over everything
    penalty = 2.0 * h.pow(2).mean() + 1.0 * (h[:, 1:] - h[:, :-1]).pow(2).mean()
    (wanted.mean() + penalty).backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({**LSTM, "n_layers": 2}, "widths names 3 layers, and n_layers is 2"),
        ({**LSTM, "window": 2}, "window has no effect with cell lstm"),
        ({**LSTM, "size": "1M"}, "size has no rule for this family"),
        ({**LSTM, "widths": [3, 0]}, "are not all above 0"),
        ({**GCNN, "n_layers": 2}, "n_layers is 2, and blocks names 3"),
        ({**GCNN, "blocks": [{"layers": [[0, 4]]}]}, "kernels and widths are above 0"),
        ({**GCNN, "size": "1M"}, "size has no rule for this family"),
    ],
    ids=str,
)
def test_a_wrong_shape_is_named(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_model({"vocab_size": VOCAB, **changes})


def test_the_receptive_field_is_what_a_prediction_depends_on() -> None:
    config, model = config_of("tcn"), built("tcn")
    reach = config.receptive_field  # type: ignore[attr-defined]
    assert reach == 1 + 2 * (1 + 2 + 4)
    for back, seen in ((reach - 1, True), (reach, False)):
        first, second = tokens(), tokens()
        second[:, T - 1 - back] = (second[:, T - 1 - back] + 1) % VOCAB
        with torch.no_grad():
            assert torch.equal(model(first)[:, -1], model(second)[:, -1]) is not seen
