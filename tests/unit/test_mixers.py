"""What holds for every registered mixer. A new one is covered by being registered; `OPTIONS` may add kinds of it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.toy_mixer import register
from trainer.config.base import parse_section
from trainer.config.model import parse_model
from trainer.config.parallel import Degrees, ParallelConfig
from trainer.config.run import RunConfig
from trainer.config.sizes import usual_ff
from trainer.contract.errors import UserError
from trainer.models.build import build_model, make_model
from trainer.models.interface import LanguageModel
from trainer.models.mixers.base import kinds_of
from trainer.models.mixers.registry import MIXERS
from trainer.models.registry import cost_of
from trainer.models.roles import role_of
from trainer.models.transformer.config import TransformerConfig
from trainer.parallel.tensor.split import split_parameter
from trainer.plan.activations import activations
from trainer.plan.counting import count_flops, count_parameters
from trainer.plan.plan import make_plan

register()  # the mixer of docs/extending.md
VOCAB, T, ROWS = 61, 24, 3
# Kinds that a mixer has beside its default.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "gated_conv": [{"kernel": 1}, {"kernel": 3}],
    "temporal_conv": [{"kernel": 2, "cycle": 1}],
    "qrnn": [{"kernel": 1}],
}
KINDS = [(name, options) for name in MIXERS for options in ({}, *OPTIONS.get(name, []))]
# Settings of the block that a mixer may read.
BLOCKS: list[dict[str, Any]] = [{}, {"bias": True, "norm": "layernorm", "mlp": "gelu"}]
KEPT_WITHIN = {"lstm": 0.06}  # oneDNN pads its workspace
every_mixer = pytest.mark.parametrize(("name", "options"), KINDS, ids=lambda value: str(value))
every_block = pytest.mark.parametrize("block", BLOCKS, ids=str)


def config_of(name: str, options: dict[str, Any], **changes: Any) -> TransformerConfig:
    """Return a small model whose blocks have the mixer."""
    heads = {"n_heads": 4} if "n_heads" in MIXERS[name].cost_class.settings else {}
    small = {"d_model": 32, "n_layers": 2, "vocab_size": VOCAB, "context_length": T, "mixer": {name: options}, **heads}
    config = parse_model({**small, **changes})
    assert isinstance(config, TransformerConfig)
    return config


def built(name: str, options: dict[str, Any], **changes: Any) -> LanguageModel:
    """Return the model in evaluation, with values large enough that each token matters to those after it."""
    return build_model(config_of(name, options, init_std=0.3, **changes), seed=3).eval()


def tokens(seed: int = 0, rows: int = ROWS, length: int = T) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@every_block
@every_mixer
def test_counted_parameters_are_those_of_the_module(name: str, options: dict, block: dict) -> None:
    config = config_of(name, options, **block)
    with torch.device("meta"):
        model = make_model(config)
    assert count_parameters(config).total == sum(p.numel() for p in model.parameters())


@every_block
@every_mixer
def test_every_parameter_has_a_role(name: str, options: dict, block: dict) -> None:
    config = config_of(name, options, **block)
    with torch.device("meta"):
        model = make_model(config)
    whole = [kind.cost.parameters() for kind in kinds_of(config)]
    for parameter_name, parameter in model.named_parameters():
        role = role_of(model.roles, parameter_name)
        assert not role.parts or sum(role.parts) == parameter.shape[0]
        assert role.decay == (role.group == "matrix")
        assert role.group != "matrix" or parameter.dim() == 2, "Muon takes matrices"
    patterns = [p for p in model.roles if f".{MIXERS[name].prefix}." in p and "bias" not in p and "[" not in p]
    unused = [p for p in patterns if not any(fnmatchcase(n, p) for n, _ in model.named_parameters())]
    assert unused == [], "a role that no parameter has"
    assert all(count.whole <= count.own for count in whole)


@every_mixer
def test_no_token_sees_the_future(name: str, options: dict) -> None:
    model = built(name, options)
    for place in (1, 7, T - 1):
        first, second = tokens(), tokens()
        second[:, place:] = (second[:, place:] + 1 + tokens(1)[:, place:] % (VOCAB - 1)) % VOCAB
        with torch.no_grad():
            before, after = model(first), model(second)
        torch.testing.assert_close(before[:, :place], after[:, :place], atol=1e-6, rtol=1e-5)
        assert not torch.allclose(before[:, place], after[:, place], atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, T - 1), max_size=5, unique=True).map(sorted), kind=st.sampled_from(KINDS))
def test_chunks_with_a_state_equal_one_pass(cuts: list[int], kind: tuple[str, dict]) -> None:
    model, text = built(*kind).double(), tokens()
    state = model.initial_state()
    with torch.no_grad():
        whole = model(text)
        parts = [model(part, state=state) for part in text.tensor_split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-10, rtol=1e-10)
    assert all(tensor.shape[0] == ROWS for layer in state.layers for tensor in layer.values())


@every_mixer
def test_decoding_with_a_state_equals_reading_everything_anew(name: str, options: dict) -> None:
    model, text = built(name, options), tokens()
    state = model.initial_state()
    with torch.no_grad():
        for place in range(T):
            stepped = model(text[:, place : place + 1], state=state)[:, 0]
            torch.testing.assert_close(stepped, model(text[:, : place + 1])[:, -1], atol=1e-5, rtol=1e-5)


@every_mixer
def test_the_state_has_the_size_that_is_stated(name: str, options: dict) -> None:
    config, model, state = config_of(name, options), built(name, options), None
    for length in (1, T):
        state = model.initial_state()
        with torch.no_grad():
            model(tokens(length=length), state=state)
        (kind,) = kinds_of(config)
        stated = kind.cost.state_size()
        held = max(sum(tensor[0].numel() for tensor in layer.values()) for layer in state.layers)
        assert held == stated.fixed + length * stated.per_token


DOCUMENTED = [kind for kind in KINDS if MIXERS[kind[0]].cost_class.respects_documents]


@pytest.mark.parametrize(("name", "options"), DOCUMENTED, ids=str)
@pytest.mark.parametrize("cuts", [[10], [1, 2, 9, 23], [12, 13]], ids=str)
def test_documents_do_not_see_each_other(name: str, options: dict, cuts: list[int]) -> None:
    """Each document alone has the outputs that it has among others, positions aside."""
    model, text = built(name, options, position="none").double(), tokens()
    borders = torch.zeros(ROWS, T, dtype=torch.int32)
    borders[:, cuts] = 1
    documents = borders.cumsum(1).int()
    with torch.no_grad():
        together = model(text, documents=documents)
        alone = [model(part) for part in text.tensor_split(cuts, dim=1)]
        torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=1e-10, rtol=1e-10)
        state = model.initial_state()
        pairs = zip(text.tensor_split([5, 12], 1), documents.tensor_split([5, 12], 1), strict=True)
        parts = [model(part, documents=numbers, state=state) for part, numbers in pairs]
        torch.testing.assert_close(torch.cat(parts, dim=1), together, atol=1e-10, rtol=1e-10)


@every_mixer
def test_a_mixer_that_reads_on_is_refused_for_confined_documents(name: str, options: dict) -> None:
    values = {"model": config_of(name, options), "data": {"document_mask": True}, "steps": 2}
    run = parse_section(RunConfig, {**values, "batch": {"tokens_per_step": 2 * T}}, "test")
    if MIXERS[name].cost_class.respects_documents:
        make_plan(run, world=1)
    else:
        with pytest.raises(UserError, match=f"{name} does not stop at the end of a document"):
            make_plan(run, world=1)


@every_mixer
def test_flops_are_positive_and_add_up(name: str, options: dict) -> None:
    one, two = (count_flops(config_of(name, options, n_layers=layers)) for layers in (1, 2))
    assert one.body > 0 and two.body == 2 * one.body and two.attention == 2 * one.attention and one.head == two.head
    short, long = (count_flops(config_of(name, options, context_length=length)) for length in (64, 128))
    assert short.body == long.body and short.attention <= long.attention <= 2 * short.attention
    config = config_of(name, options)
    shape = cost_of(config.family).step_shape(config)
    linear = sum(product.outputs * product.inputs for mixer, _ in shape.mixers for product in mixer.products)
    (kind,) = kinds_of(config)
    assert 6 * linear <= kind.cost.flops().matrices


@every_mixer
def test_tensor_ranks_have_equal_shares_or_are_refused(name: str, options: dict) -> None:
    config = config_of(name, options)
    (kind,) = kinds_of(config)
    if kind.cost.shared_widths() is None:
        with pytest.raises(UserError, match=rf"{name} cannot be split over 2 tensor ranks: set parallel\.tensor to 1"):
            cost_of(config.family).check_splits(config, Degrees(1, 1, 2))
        return
    cost_of(config.family).check_splits(config, Degrees(1, 1, 2))
    with torch.device("meta"):
        model = make_model(config)
    held = 0
    for parameter_name, parameter in model.named_parameters():
        role = role_of(model.roles, parameter_name)
        if role.split == "vocab":
            continue
        shares = [split_parameter(role, tuple(parameter.shape), tp_rank=rank, tp_size=2) for rank in range(2)]
        assert shares[0].local_shape == shares[1].local_shape
        if f".{kind.mixer.prefix}." in parameter_name and shares[0].dim is None:
            held += parameter.numel()
    count, layers = kind.cost.parameters(), config.n_layers
    assert held == layers * (count.norms + count.whole), "what every rank holds whole"


@every_mixer
def test_sequence_ranks_share_attention_alone(name: str, options: dict) -> None:
    config = config_of(name, options)
    if name == "attention":
        cost_of(config.family).check_splits(config, Degrees(1, 2, 1))
    else:
        with pytest.raises(UserError, match=rf"mixer {name} .*: set parallel\.sequence to 1"):
            cost_of(config.family).check_splits(config, Degrees(1, 2, 1))


@every_mixer
def test_planned_activations_are_those_that_are_kept(name: str, options: dict) -> None:
    """Two models that differ by one layer, so that what every model keeps once drops out."""
    two, three = (_kept(config_of(name, options, n_layers=layers)) for layers in (2, 3))
    one = config_of(name, options, n_layers=1)
    planned = activations(one, ParallelConfig(), bytes_per_value=4, gpu=False).layers * ROWS * T
    assert three - two == pytest.approx(planned, rel=KEPT_WITHIN.get(name, 0.02))


def _kept(config: TransformerConfig) -> int:
    """Return the bytes of all distinct storages that a forward pass keeps, parameters left out."""
    model = build_model(config, 0)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(tokens(), tokens()).mean()
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@every_mixer
def test_rotary_positions_are_applied_or_refused(name: str, options: dict) -> None:
    if "rotary" in MIXERS[name].cost_class.positions:
        assert config_of(name, options).position == "rotary"
        return
    assert config_of(name, options).position == "none"
    with pytest.raises(ValueError, match="position rotary is applied to queries and keys"):
        config_of(name, options, position="rotary")


SIZES = ("12k", "25k", "50k", "100k", "300k", "1M", "3M", "10M", "30M", "100M", "300M", "1B")


@pytest.mark.parametrize("size", SIZES)
@every_mixer
def test_a_size_has_as_many_parameters_of_the_body_as_attention(name: str, options: dict, size: str) -> None:
    """Within 2.5 %, so that any two mixers are within 5 % of each other."""
    attention, config = (
        parse_model({"size": size, "vocab_size": 1, "mixer": m}) for m in ("attention", {name: options})
    )
    wanted = count_parameters(attention).body
    assert count_parameters(config).body == pytest.approx(wanted, rel=0.025)
    assert name != "attention" or config.shape() == attention.shape() or options
    ratios = [model.d_model / model.n_layers for model in (attention, config)]
    assert 1 / 2 <= ratios[0] / ratios[1] <= 2
    assert 1 / 2.5 <= config.ff_width / usual_ff(config.d_model, config.mlp) <= 2.5
    cost_of(config.family).check_splits(config, Degrees(8, 1, 1))


def test_mixers_alternate_over_the_layers() -> None:
    pattern = ["gated_conv", {"gated_conv": {"kernel": 2}}, "attention"]
    config = TransformerConfig(d_model=32, n_layers=5, n_heads=4, vocab_size=VOCAB, context_length=T, pattern=pattern)
    names = [f"{choice.name}{choice.options.model_dump()}" for choice in config.mixers]
    assert names == [
        "gated_conv{'kernel': 4}", "gated_conv{'kernel': 2}", "attention{}", "gated_conv{'kernel': 4}",
        "gated_conv{'kernel': 2}",
    ]  # fmt: skip
    model = build_model(config, 0).eval()
    count = count_parameters(config)
    assert count.total == sum(p.numel() for p in model.parameters())
    assert list(count.body_parts) == ["gated_conv", "attention", "mlp", "norms"]
    assert count.body_parts["gated_conv"] == 2 * 9 * 32**2 + 2 * 5 * 32**2
    text, state = tokens(), model.initial_state()
    with torch.no_grad():
        parts = [model(part, state=state) for part in text.split([5, 1, 18], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(text), atol=1e-5, rtol=1e-5)
    assert parse_model(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mixer": "gated_cnov"}, "there is no mixer 'gated_cnov' .did you mean 'gated_conv'"),
        ({"mixer": {"gated_conv": {"kernal": 2}}}, "gated_conv: unknown key 'kernal' .did you mean 'kernel'"),
        ({"mixer": {"gated_conv": {"kernel": 0}}}, "gated_conv: 'kernel': input should be greater than 0"),
        ({"mixer": "gated_conv", "n_heads": 2}, "n_heads has no effect with the mixer gated_conv"),
        ({"mixer": "gated_conv", "qk_norm": True}, "qk_norm has no effect with the mixer gated_conv"),
        ({"mixer": "gated_conv", "pattern": ["attention"]}, "give mixer or pattern, not both"),
        ({"pattern": ["gated_conv", "attention"] * 2, "n_heads": 2}, "names 4 mixers, and the model has 3 layers"),
        ({"pattern": "gated_conv"}, "pattern is a list of mixers"),
        ({"pattern": []}, "pattern is a list of mixers"),
        ({"mixer": ["a"]}, "expected a name, or one name with its options"),
        ({"mixer": {"gated_conv": 3}}, "the options of gated_conv are a mapping"),
        ({}, "n_heads is missing: the mixer attention has heads"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_choice_is_named(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_model({"d_model": 32, "n_layers": 3, "vocab_size": VOCAB, **changes})
