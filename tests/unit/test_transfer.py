"""mup and completep: equal to standard at the base, and away from it what the papers' tables say for each role."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch

from trainer.config.load import run_from_values
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.models.build import build_model
from trainer.models.interface import LanguageModel
from trainer.models.mixers.registry import MIXERS, find_mixer
from trainer.models.roles import role_of
from trainer.models.transfer import Factors, factors
from trainer.optim.groups import parameter_groups, set_rates

SHAPE = {"d_model": 32, "n_layers": 2, "vocab_size": 64, "context_length": 16}
BASES: dict[str, dict[str, Any]] = {
    "mup": {"d_model": 32}, "completep": {"d_model": 32, "n_layers": 2},
}  # fmt: skip


def with_heads(name: str) -> dict[str, Any]:
    heads = {"n_heads": 4} if "n_heads" in find_mixer(name).cost_class.settings else {}
    return {"mixer": name, **heads}


MODELS: dict[str, dict[str, Any]] = {
    **{name: {**SHAPE, **with_heads(name)} for name in MIXERS},
    "relative": {**SHAPE, "n_heads": 4, "position": "relative"},
    "sinusoidal xavier": {**SHAPE, "n_heads": 4, "position": "sinusoidal", "init": "xavier", "mlp": "gelu"},
    "learned biases": {**SHAPE, "n_heads": 4, "position": "learned", "norm": "layernorm", "bias": True},
    "bands": {**SHAPE, "n_heads": 4, "adaptive": {"cutoffs": [20], "input": True}},
    "recurrent": {**SHAPE, "family": "recurrent", "cell": "lstm"},
    "qrnn": {**SHAPE, "family": "recurrent", "cell": "qrnn", "tied_embeddings": False, "widths": [48, 48]},
    "convolutional": {**SHAPE, "family": "convolutional", "blocks": [{"layers": [[3, 32]], "repeat": 2}]},
    "plain convolutions": {
        **SHAPE, "family": "convolutional", "weight_norm": False, "blocks": [{"layers": [[3, 48]], "repeat": 2}],
    },
}  # fmt: skip


def run(model: dict[str, Any], rule: str = "standard", **optim: Any) -> RunConfig:
    transferred = {} if rule == "standard" else {"parametrization": rule, "base": BASES[rule]}
    values = {
        "model": model, "data": {}, "batch": {"tokens_per_step": 64}, "steps": 4, "precision": "fp32",
        "optim": {"lr": 1e-2, **transferred, **optim},
    }  # fmt: skip
    return run_from_values(values, "test")


def widened(model: dict[str, Any], times: int) -> dict[str, Any]:
    """Return the model with all widths so many times greater; heads stay as wide."""
    found = {**model, "d_model": times * model["d_model"]}
    if "n_heads" in found:
        found["n_heads"] *= times
    if "widths" in found:
        found["widths"] = [times * width for width in found["widths"]]
    if "blocks" in found:
        found["blocks"] = [{**b, "layers": [[k, times * w] for k, w in b["layers"]]} for b in found["blocks"]]
    return found


def steps(config: RunConfig) -> tuple[LanguageModel, list[float]]:
    """Take three steps; return the model and the losses."""
    model, losses = build_model(config.model, 0), []
    optimizer = torch.optim.AdamW(parameter_groups(model, config.optim), lr=1.0, betas=config.optim.betas)
    tokens = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        set_rates(optimizer.param_groups, 1e-2)
        loss = model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return model, losses


@pytest.mark.parametrize("rule", ["mup", "completep"])
@pytest.mark.parametrize("name", MODELS)
def test_at_the_base_everything_is_standard_to_the_last_bit(name: str, rule: str) -> None:
    (standard, expected), (model, losses) = steps(run(MODELS[name])), steps(run(MODELS[name], rule))
    assert losses == expected
    for (key, value), other in zip(standard.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(value, other), key


@pytest.mark.parametrize("name", MODELS)
def test_values_at_the_start_follow_the_width(name: str) -> None:
    """Against the base's measured values: matrices shrink with the root of the width, all else stays."""
    base = build_model(run(MODELS[name], "mup").model, 0)
    wide = build_model(run(widened(MODELS[name], 16), "mup").model, 0)
    measured = dict(base.named_parameters())
    for key, parameter in wide.named_parameters():
        role, before = role_of(wide.roles, key), measured[key]
        if before.numel() < 512 or not before.std() > 0:
            continue
        ratio = float(parameter.std() / before.std())
        narrow = {"width": 1.0, "heads": 1.0, "nothing": 1 / 4}[role.grows]
        wanted = narrow / 4 if role.kind == "hidden" else 1.0
        assert ratio == pytest.approx(wanted, rel=0.12), key


@pytest.mark.parametrize("name", MODELS)
def test_a_wide_model_starts_no_worse_than_its_base_and_learns(name: str) -> None:
    _, before = steps(run(MODELS[name]))
    _, losses = steps(run(widened(MODELS[name], 8), "mup"))
    assert losses[0] < before[0] + 0.1 and losses[-1] < losses[0]


def test_factors_are_those_of_the_table() -> None:
    config = run({**widened(MODELS["mamba2"], 4), "n_layers": 6}, "completep").model
    model = build_model(config, 0)

    def of(name: str, *, muon: bool = False) -> Factors:
        return factors(config, name, role_of(model.roles, name), muon=muon)

    m, r = 4.0, 3.0
    assert of("embed.weight") == of("norm.weight") == Factors(eps=1 / m)
    assert of("blocks.5.mamba2.A_log") == of("blocks.0.mlp_norm.weight") == Factors(eps=1 / (m * r))
    assert of("blocks.0.mlp.down.weight") == Factors(1 / m, m, 1 / (m * r))
    assert of("blocks.0.mamba2.bc.weight") == Factors(1 / m, m, 1 / r)
    assert of("blocks.0.mlp.down.weight", muon=True) == Factors(1 / sqrt(m), sqrt(m), 1 / (m * r))
    assert of("blocks.0.mamba2.bc.weight", muon=True) == Factors(1 / m, m, 1 / r)
    assert config.branch_scale == pytest.approx(1 / r)
    assert float(dict(model.named_parameters())["blocks.0.mlp.down.weight"].std()) == pytest.approx(
        sqrt(2 / (5 * 32)) / sqrt(2 * 2) / sqrt(m), rel=0.05
    )


def test_scores_of_wider_heads_fall_as_one_over_their_width() -> None:
    wide = {**SHAPE, "d_model": 128, "n_heads": 4}
    config = run(wide, "standard", parametrization="mup", base={"d_model": 32, "head_dim": 8}).model
    assert config.query_scale == pytest.approx(sqrt(8) / 32 / 32**-0.5)
    model, plain = build_model(config, 0), build_model(run(wide).model, 0)
    x, context = torch.randn(2, 5, 128), None
    seen: list[torch.Tensor] = []
    for made in (model, plain):
        attention = made.blocks[0].mixer
        attention.attend = lambda query, *rest: seen.append(query) or query  # type: ignore[func-returns-value]
        attention.load_state_dict(plain.blocks[0].mixer.state_dict())
        from trainer.models.interface import Context

        attention(x, Context(torch.arange(5)), context)
    assert torch.allclose(seen[0], seen[1] / 2)


@pytest.mark.parametrize(
    ("model", "optim", "said"),
    [
        ({}, {"parametrization": "mup"}, "needs base"),
        ({}, {"base": {"d_model": 8}}, "no effect with parametrization standard"),
        ({}, {"parametrization": "completep", "base": {"d_model": 8}}, "n_layers is missing"),
        ({}, {"parametrization": "mup", "base": {"d_model": 8, "n_layers": 2}}, "no effect with mup"),
        ({}, {"parametrization": "mup", "base": {"d_model": 8}, "lr": "auto"}, "give lr"),
        ({}, {"parametrization": "mup", "base": {"d_model": 8}, "name": "sgd"}, "sgd"),
        ({}, {"muon_lr_factor": 2.0}, "no effect with name adamw"),
        ({"init": "careless"}, {"parametrization": "mup", "base": {"d_model": 8}}, "careless"),
        ({"norm_placement": "post"}, {"parametrization": "completep", "base": {"d_model": 8, "n_layers": 1}}, "post"),
        ({"transfer": {"rule": "mup", "d_model": 8}}, {}, "leave it out"),
        ({"family": "recurrent", "n_heads": None},
         {"parametrization": "completep", "base": {"d_model": 8, "n_layers": 1}}, "has none"),
    ],
)  # fmt: skip
def test_what_has_no_rule_is_refused(model: dict[str, Any], optim: dict[str, Any], said: str) -> None:
    section = {key: value for key, value in {**SHAPE, "n_heads": 4, **model}.items() if value is not None}
    with pytest.raises(UserError, match=said):
        run(section, "standard", **optim)


def test_a_saved_run_reads_back_as_it_was() -> None:
    config = run(widened(MODELS["attention"], 2), "completep")
    again = run_from_values(config.model_dump(mode="json", exclude_none=True), "test")
    assert again.model == config.model and again.model.transfer is not None
