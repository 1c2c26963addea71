"""What lanes carry from step to step: nothing is lost on the way, gradients end where a sequence begins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.test_mixers import KINDS, MIXERS, ROWS, T, built, config_of, tokens
from trainer.config.base import parse_section
from trainer.config.model import parse_model
from trainer.config.parallel import ParallelConfig
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.engine.carried import CarriedStates
from trainer.engine.recompute import recompute_blocks
from trainer.models.build import build_model
from trainer.models.interface import LanguageModel
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.activations import activations

SEGMENTS = 4
RECURRENT = [kind for kind in KINDS if kind[0] != "attention"]
every_mixer = pytest.mark.parametrize(("name", "options"), KINDS, ids=str)


def carrying(name: str, options: dict, **changes: Any) -> LanguageModel:
    return built(name, options, carry=True, **changes).double()


def read(model: LanguageModel, carried: CarriedStates, text: Tensor, **keywords: Any) -> Tensor:
    """Return the logits of the next sequences of all lanes."""
    begins = keywords.pop("begins", None)
    logits: Tensor = model(text, state=carried.enter(0, begins), **keywords)
    carried.leave(0)
    return logits


@pytest.mark.parametrize(("name", "options"), RECURRENT, ids=str)
def test_segments_equal_one_pass_over_all(name: str, options: dict) -> None:
    model, text = carrying(name, options), tokens(length=SEGMENTS * T)
    carried = CarriedStates(model)
    with torch.no_grad():
        parts = [read(model, carried, part) for part in text.split(T, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(text), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("position", ["rotary", "relative", "none"])
def test_attention_with_a_memory_of_all_equals_one_pass(position: str) -> None:
    model = carrying("attention", {}, position=position, memory=SEGMENTS * T)
    text, carried = tokens(length=SEGMENTS * T), CarriedStates(model)
    with torch.no_grad():
        parts = [read(model, carried, part) for part in text.split(T, dim=1)]
        # Angles are float32, and in segments places are counted from elsewhere.
        torch.testing.assert_close(torch.cat(parts, dim=1), model(text), atol=2e-5, rtol=1e-5)


@every_mixer
def test_a_sequence_that_begins_has_read_nothing(name: str, options: dict) -> None:
    model, carried = carrying(name, options), CarriedStates(carrying(name, options))
    begins = torch.tensor([True, False, True])
    assert len(begins) == ROWS
    with torch.no_grad():
        read(model, carried, tokens(1))
        before = carried.kept()
        goes_on = read(model, carried, tokens(2))
        carried.put_back(before)
        mixed = read(model, carried, tokens(2), begins=begins)
        anew = read(model, CarriedStates(model), tokens(2))
    torch.testing.assert_close(mixed[begins], anew[begins], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(mixed[~begins], goes_on[~begins], atol=1e-10, rtol=1e-10)
    sees_one_token = (name, options) == ("gated_conv", {"kernel": 1})
    assert torch.allclose(goes_on, anew, atol=1e-4) == sees_one_token


@pytest.mark.parametrize(("name", "options"), [k for k in KINDS if MIXERS[k[0]].cost_class.respects_documents], ids=str)
def test_nothing_of_a_document_is_carried_into_the_next(name: str, options: dict) -> None:
    """A document that reaches over the end of a segment sees itself there, and no other one."""
    model, text = carrying(name, options, position="none"), tokens(length=2 * T)
    documents = torch.zeros(ROWS, 2 * T, dtype=torch.int32)
    documents[:, T - 5 :] = 1
    documents[:, T + 7 :] = 2
    carried = CarriedStates(model)
    with torch.no_grad():
        pairs = zip(text.split(T, 1), documents.split(T, 1), strict=True)
        parts = torch.cat([read(model, carried, part, documents=numbers) for part, numbers in pairs], dim=1)
        alone = [model(part) for part in text.tensor_split([T - 5, T + 7], dim=1)]
    torch.testing.assert_close(parts, torch.cat(alone, dim=1), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@every_mixer
def test_the_gradient_of_a_step_is_that_of_truncated_backpropagation(name: str, options: dict, recompute: Any) -> None:
    """As a plain loop has it that detaches the states by hand, with and without recomputation."""
    plain, model = carrying(name, options), carrying(name, options)
    recompute_blocks(model, recompute)
    carried, state = CarriedStates(model), plain.carried_state()
    for step in range(3):
        text = tokens(step, length=T + 1)
        plain(text[:, :-1], text[:, 1:], state=state).mean().backward()
        for layer in state.layers:
            layer.update({key: value.detach() for key, value in layer.items()})
        model(text[:, :-1], text[:, 1:], state=carried.enter(0, None)).mean().backward()
        carried.leave(0)
    for (key, one), two in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        torch.testing.assert_close(two.grad, one.grad, atol=1e-12, rtol=1e-10, msg=lambda m, key=key: f"{key}: {m}")


def test_the_lstm_is_that_of_torch_in_a_plain_loop() -> None:
    """Truncated backpropagation through torch.nn.LSTM with copied weights: same states, same gradients."""
    (block,) = carrying("lstm", {}, n_layers=1).blocks
    mixer: Any = block.mixer
    D = mixer.recurrent.shape[1]
    theirs = torch.nn.LSTM(D, D, batch_first=True).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(mixer.input)
        theirs.weight_hh_l0.copy_(mixer.recurrent)
        theirs.bias_ih_l0.copy_(mixer.bias)
        theirs.bias_hh_l0.zero_()
    state: dict[str, Tensor] = {}
    both: Any = None
    for step in range(3):
        x = torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        ours = mixer(x, context=_no_context(), state=state)
        h, both = theirs(x, both)
        expected = torch.nn.functional.linear(h, mixer.out.weight)
        torch.testing.assert_close(ours, expected)
        ours.square().mean().backward()
        torch.nn.functional.linear(h, mixer.out.weight.detach()).square().mean().backward()
        both = tuple(part.detach() for part in both)
        state = {name: kept.detach() for name, kept in state.items()}
        torch.testing.assert_close(state["h"], both[0][0])
    torch.testing.assert_close(mixer.recurrent.grad, theirs.weight_hh_l0.grad)
    torch.testing.assert_close(mixer.input.grad, theirs.weight_ih_l0.grad)


def _no_context() -> Any:
    from trainer.models.interface import Context

    return Context(torch.arange(T))


def test_states_go_through_a_checkpoint_lane_by_lane() -> None:
    model = carrying("mlstm", {})
    carried, other = CarriedStates(model, 3), CarriedStates(model, 1)
    with torch.no_grad():
        for index in range(3):
            model(tokens(index), state=carried.enter(index, None))
            carried.leave(index)
    other.fill(carried.tensors(), torch.device("cpu"))
    with torch.no_grad():
        alone = [model(tokens(9), state=carried.enter(index, None)) for index in range(3)]
        together = model(tokens(9).repeat(3, 1), state=other.enter(0, None))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("memory", [T, 2 * T])
@pytest.mark.parametrize(("position", "within"), [("rotary", 0.001), ("none", 0.001), ("relative", 0.06)])
def test_planned_activations_are_those_that_are_kept(position: str, within: float, memory: int) -> None:
    """Two models that differ by one layer. What all sequences share of distances is not in the plan."""
    one, two, three = (
        config_of("attention", {}, n_layers=n, carry=True, position=position, memory=memory) for n in (1, 2, 3)
    )
    planned = activations(one, ParallelConfig(), bytes_per_value=4, gpu=False).layers * ROWS * T
    assert _kept(three) - _kept(two) == pytest.approx(planned, rel=within)


def _kept(config: TransformerConfig) -> int:
    """Return the bytes that the second step of a model's lanes keeps for its backward pass."""
    model = build_model(config, 0)
    carried = CarriedStates(model)
    read(model, carried, tokens())
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(tokens(), tokens(), state=carried.enter(0, None)).mean()
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def run_of(model: dict[str, Any], **sections: Any) -> RunConfig:
    small = {"d_model": 32, "n_layers": 2, "vocab_size": 61, "context_length": T}
    values = {"model": {**small, **model}, "data": {}, "batch": {"tokens_per_step": 4 * T}, "steps": 2, **sections}
    return parse_section(RunConfig, values, "test")


STREAMS = {"order": "streams"}


@pytest.mark.parametrize(
    ("model", "sections", "says"),
    [
        ({"mixer": "lstm", "carry": True}, {}, "set data.order to streams"),
        ({"n_heads": 4, "carry": True, "position": "learned"}, {"data": STREAMS}, "rotary or relative or none"),
        ({"mixer": "lstm", "carry": True, "memory": 8}, {"data": STREAMS}, "memory has no effect with the mixer lstm"),
        ({"n_heads": 4, "memory": 8}, {}, "memory has no effect with carry false"),
        ({"mixer": "lstm", "position": "relative"}, {}, "position relative is applied to queries and keys"),
        (
            {"mixer": "lstm", "carry": True}, {"data": STREAMS, "parallel": {"compile": True}},
            "set parallel.compile to false",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_carried_is_refused(model: dict, sections: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        run_of(model, **sections)


@pytest.mark.parametrize("asked", [{"carry": True}, {"position": "relative"}], ids=str)
def test_sequence_ranks_are_refused(asked: dict) -> None:
    from trainer.config.parallel import Degrees, check_model_splits

    with pytest.raises(UserError, match=f"model.{'carry' if 'carry' in asked else 'position relative'} needs whole"):
        check_model_splits(config_of("attention", {}, **asked), Degrees(1, 2, 1))


def test_a_model_without_it_keeps_its_identity() -> None:
    values = parse_model({"d_model": 32, "n_layers": 2, "n_heads": 4}).model_dump(mode="json")
    assert not {"carry", "memory"} & values.keys()
    assert build_model(config_of("attention", {}), 0).initial_state().memory is None
