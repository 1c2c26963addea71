"""Every registered mixer computes on ranks what one process computes: data parallel, each ZeRO stage, tensor ranks.

A few steps tell. The recurrences with a norm of small outputs amplify rounding from step to step (one process in two
halves of a batch is up to 1e-3 from itself at the usual learning rate), so they take small steps.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import SEQUENCES, TOKENS, reference, spread, tiny
from tests.dist.test_parity import LOSS, NORM, assert_same_curves
from tests.unit.toy_mixer import register
from trainer.config.parallel import Degrees
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.models.mixers.registry import MIXERS
from trainer.models.registry import cost_of

register()
STEPS = 6
SENSITIVE = ("gated_delta", "mlstm")
PATTERNS: dict[str, dict[str, Any]] = {  # beside the mixers alone
    "hybrid": {"pattern": ["gated_delta", "gated_delta", "gated_delta", "attention"], "n_layers": 4, "n_heads": 4},
    "convolutions": {
        "pattern": ["gated_conv", "temporal_conv"],
        "n_heads": None,
        "n_layers": 4,
        "mlp": "none",
        "d_ff": None,
    },
}


def run_of(name: str, length: int = TOKENS, **parallel: Any) -> RunConfig:
    """Return a run of the tiny model with a mixer in place of attention, or with a pattern of them."""
    if name in PATTERNS:
        model = PATTERNS[name]
    else:
        model = {"mixer": name, "n_heads": 4 if "n_heads" in MIXERS[name].cost_class.settings else None}
    sensitive = any(part in str(model) for part in SENSITIVE)
    return tiny(
        model={"bias": True, "context_length": length, **model},
        batch={"tokens_per_step": SEQUENCES * length},
        parallel=parallel,
        optim={"lr": 3e-5 if sensitive else 3e-3},
    )


def can_split(name: str) -> bool:
    try:
        cost_of("transformer").check_splits(run_of(name).model, Degrees(1, 1, 2))
    except UserError:
        return False
    return True


@functools.cache
def plain(name: str, masked: bool, length: int = TOKENS) -> list[tuple[float, float]]:
    return reference(run_of(name, length), STEPS, masked)


def train(config: RunConfig, *arguments: Any) -> list[Any]:
    """Train on this world as `spread` does, with the toy mixer known."""
    register()
    return spread(config, *arguments)


OTHERS = [*(name for name in MIXERS if name != "attention"), *PATTERNS]


def assert_equal(
    curves: list[Any], name: str, masked: bool = False, length: int = TOKENS, sensitive: float = 1e-5
) -> None:
    norm = sensitive if run_of(name).optim.lr == 3e-5 else NORM
    assert_same_curves(curves, plain(name, masked, length), LOSS, norm)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("name", OTHERS)
def test_two_data_ranks_equal_one(ranks: RankPool, name: str, zero_stage: int) -> None:
    masked = zero_stage == 2 and all(
        MIXERS[choice.name].cost_class.respects_documents
        for choice in run_of(name).model.mixers  # type: ignore[attr-defined]
    )
    curves = ranks.run(2, train, run_of(name, zero_stage=zero_stage), 2, masked, zero_stage == 1, STEPS)
    assert_equal(curves, name, masked)


@pytest.mark.parametrize(
    ("zero_stage", "recompute", "meta"), [(0, "none", False), (1, "selective", True), (3, "full", False)]
)
@pytest.mark.parametrize("name", [name for name in OTHERS if can_split(name)])
def test_two_tensor_ranks_equal_one(ranks: RankPool, name: str, zero_stage: int, recompute: str, meta: bool) -> None:
    config = run_of(name, tensor=2, zero_stage=zero_stage, recompute=recompute)
    assert_equal(ranks.run(2, train, config, 1, False, meta, STEPS), name)


@pytest.mark.parametrize("name", OTHERS)
def test_recomputing_blocks_changes_nothing(ranks: RankPool, name: str) -> None:
    """Also for the functions whose backward passes are written by hand, and under ZeRO 3, which gathers again."""
    config = run_of(name, zero_stage=3, recompute="full")
    assert_equal(ranks.run(2, train, config, 1, False, False, STEPS), name)


@pytest.mark.parametrize("name", OTHERS)
def test_bf16_stays_near(ranks: RankPool, name: str) -> None:
    config = run_of(name, zero_stage=2).model_copy(update={"precision": "bf16"})
    # In an mLSTM a few tokens that read almost nothing, which is then normed, make up the gradient's norm.
    loss, norm = (3e-2, float("inf")) if name == "mlstm" else (1e-2, 0.1)
    assert_same_curves(ranks.run(2, train, config, 1, False, False, STEPS), plain(name, False), loss, norm)


@pytest.mark.parametrize("name", ["lstm", "mamba2", "hybrid"])
def test_muon_on_ranks_equals_muon_in_one_process(ranks: RankPool, name: str) -> None:
    """Its matrices are parameters of the mixer, in parts, some of them no linear layer's."""
    config = run_of(name, zero_stage=0)
    config = config.model_copy(update={"optim": config.optim.model_copy(update={"name": "muon", "lr": 1e-4})})
    (alone,) = ranks.run(1, train, config, 1, False, False, STEPS)
    curves = ranks.run(2, train, config, 1, False, False, STEPS)
    assert_same_curves(curves, alone, 2e-5, 1e-4)  # the iteration magnifies rounding


COMPILED = [name for name in OTHERS if not any(name in pattern["pattern"] for pattern in PATTERNS.values())]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_blocks_change_nothing(ranks: RankPool, name: str) -> None:
    """Each mixer alone or in its pattern.

    A rank compiles what every rank compiles, so most take one; `test_parity.py` splits attention on two.
    """
    length = 8 if name == "lstm" else TOKENS  # unrolled: a kernel for each token and direction, compiled in a second
    config, world = run_of(name, length, zero_stage=1, compile=True), 2 if name == "convolutions" else 1
    curves = ranks.run(world, train, config, 1, False, False, STEPS, timeout=500.0)
    assert_equal(curves, name, length=length, sensitive=5e-5)  # the loss too is rounded in another order


def test_what_cannot_be_shared_is_refused_by_name() -> None:
    """Before any rank starts: launching and planning ask the same."""
    with pytest.raises(
        UserError, match=r"the mixer lstm cannot be split over 2 tensor ranks: set parallel\.tensor to 1"
    ):
        cost_of("transformer").check_splits(run_of("lstm").model, Degrees(1, 1, 2))
    for name in OTHERS:
        with pytest.raises(UserError, match=r"the mixer \w+ reads a sequence in order, .* parallel.sequence to 1"):
            cost_of("transformer").check_splits(run_of(name).model, Degrees(1, 2, 1))
