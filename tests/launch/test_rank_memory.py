"""The memory of a rank against the ZeRO paper."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.parallel import ParallelConfig
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.counting import count_parameters
from trainer.plan.memory import rank_memory


def seven_and_a_half_billion() -> TransformerConfig:
    """A model whose parameters are close to ZeRO's example of 7.5 B; the formulas are compared on its exact number."""
    return TransformerConfig(d_model=4096, n_layers=37, n_heads=32, vocab_size=8192, context_length=1, mlp="gelu")


@pytest.mark.parametrize(("stage", "published"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_formulas_exactly(stage: int, published: float) -> None:
    """Rajbhandari et al. 2020, figure 1: 7.5 B parameters, K = 12, 64 ranks; here in GB per rank."""
    memory = rank_memory(
        seven_and_a_half_billion(),
        ParallelConfig(zero_stage=stage),  # type: ignore[arg-type]
        data_parallel=64,
        micro_batch=1,
        bytes_per_value=2,
        gpu=True,
    )
    psi, ranks = count_parameters(seven_and_a_half_billion()).total, 64
    states = memory.parameters + memory.gradients + memory.optimizer
    formulas = {
        0: 16 * psi,
        1: 4 * psi + 12 * psi / ranks,
        2: 2 * psi + 14 * psi / ranks,
        3: 16 * psi / ranks,
    }
    assert abs(states - formulas[stage]) <= 3, "three parts, each rounded down to a byte"
    assert abs(states / psi * 7.5 - published) < 0.06, "the paper's figures, rounded as it prints them"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([0, 1, 2, 3]), st.sampled_from([1, 2, 4]), st.sampled_from([2, 4, 16]))
def test_a_higher_stage_never_holds_more(stage: int, tensor: int, data: int) -> None:
    """With one rank it does: stage 1 keeps bf16 parameters beside the master copy, stage 0 none."""
    model = TransformerConfig(d_model=512, n_heads=8, n_layers=8, vocab_size=8192, context_length=1024)

    def held(zero: int) -> int:
        parallel = ParallelConfig(zero_stage=zero, tensor=tensor)  # type: ignore[arg-type]
        parts = rank_memory(model, parallel, data_parallel=data, micro_batch=1, bytes_per_value=2, gpu=True).by_part()
        return parts["parameters"] + parts["gradients"] + parts["widening"] + parts["optimizer"]

    if stage:
        assert held(stage) <= held(stage - 1)
