"""The time of a step moves as physics says. Published runs are in test_published.py."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.planner.compute import Compute
from launch.planner.rates import RATES
from launch.planner.shape import Way
from launch.planner.step_time import step_time
from launch.planner.traffic import Traffic, all_reduce
from trainer.plan.gpus import GPUS
from trainer.plan.shape import MixerShape, Product, Shape

V, T = 51_200, 2048


def transformer(D: int, F: int, L: int, H: int, kv_heads: int, head_dim: int, *, gated: bool) -> Shape:
    """Return a stack of attention layers."""
    q, kv = H * head_dim, kv_heads * head_dim
    products = (Product(q + 2 * kv, D, "column"), Product(D, q, "row"))
    return Shape(D, F, V, T, gated, ((MixerShape(products, H, head_dim, exchanged=2 * q + 2 * kv), L),))


def test_fp8_is_faster_where_casts_are_fused() -> None:
    shape = transformer(8192, 28672, 80, 64, 8, 128, gated=True)
    way = Way(data=8, zero=3, micro_batch=8, cast_bytes=6)
    bf16 = step_time(shape, way, GPUS["H100-SXM"], 10**9)
    fp8 = step_time(shape, dataclasses.replace(way, precision="fp8"), GPUS["H100-SXM"], 10**9)
    assert 1.2 < bf16.matrices / fp8.matrices < 2


def test_tensor_groups_across_nodes_are_slower() -> None:
    """4 links of 50 GB/s out of a node, at 80 %, beside NVLink's 450 GB/s at 75 %."""
    shape = transformer(4096, 16384, 32, 32, 32, 128, gated=False)
    inside = step_time(shape, Way(data=1, tensor=8), GPUS["H100-SXM"], 7 * 10**9)
    across = step_time(shape, Way(data=1, tensor=8, ranks_per_node=4), GPUS["H100-SXM"], 7 * 10**9)
    assert 2 * inside.tensor < across.tensor < 3 * inside.tensor and across.matrices == inside.matrices


def test_a_ring_over_nodes_uses_all_their_links() -> None:
    """Eight ranks of a node share a ring that enters the node once; a ring of one rank a node has one link."""
    shape = transformer(4096, 16384, 32, 32, 32, 128, gated=False)
    gpu = GPUS["A100-SXM-80GB"]
    whole, alone = (
        Traffic(shape, Way(data=64, tensor=tensor, zero=3), gpu, RATES).link(tensor, 64) for tensor in (1, 8)
    )
    assert whole == pytest.approx(8 * alone) and alone == pytest.approx(0.8 * gpu.link_network)


def test_stage_3_hides_gathering_behind_compute() -> None:
    shape = transformer(4096, 16384, 32, 32, 32, 128, gated=False)
    way = Way(data=128, zero=3, micro_batch=8)
    bare = step_time(shape, way, GPUS["H100-SXM"], 7 * 10**9)
    hidden = step_time(shape, dataclasses.replace(way, overlap=True), GPUS["H100-SXM"], 7 * 10**9)
    assert hidden.data == pytest.approx(RATES.contention * bare.data)


def test_thin_products_are_slower_than_wide_ones() -> None:
    """FLOP/s of products grow with each side, and stay below the share of the peak."""
    compute = Compute(transformer(1, 1, 1, 1, 1, 1, gated=False), Way(data=1), GPUS["H100-SXM"], RATES)
    rates = [2 * n**3 / compute.product(n, n, n) for n in (256, 1024, 4096, 16384)]
    assert rates == sorted(rates) and rates[-1] < RATES.hopper * 989e12


WAYS = st.builds(
    Way,
    data=st.sampled_from([1, 2, 8, 64]),
    tensor=st.sampled_from([1, 2, 8]),
    sequence=st.sampled_from([1, 2]),
    zero=st.sampled_from([0, 1, 2, 3]),
    micro_batch=st.sampled_from([1, 4]),
    accumulation=st.integers(1, 8),
    recompute=st.sampled_from(["none", "selective", "full"]),
)


@settings(max_examples=60, deadline=None)
@given(WAYS, st.sampled_from(sorted(GPUS)))
def test_step_time_moves_the_right_way(way: Way, gpu: str) -> None:
    shape = transformer(2048, 8192, 24, 16, 16, 128, gated=True)
    here = step_time(shape, way, GPUS[gpu], 10**9)
    assert all(value >= 0 for value in here.by_part().values())
    more = step_time(shape, dataclasses.replace(way, accumulation=way.accumulation + 1), GPUS[gpu], 10**9)
    assert more.total > here.total
    again = step_time(shape, dataclasses.replace(way, recompute="full"), GPUS[gpu], 10**9)
    assert again.matrices >= here.matrices
    faster = dataclasses.replace(GPUS[gpu], flops=GPUS[gpu].flops * 2)
    assert step_time(shape, way, faster, 10**9).total <= here.total


def test_all_reduce_is_the_ring() -> None:
    assert all_reduce(8e9, 4, 1e9) == pytest.approx(12.0, rel=1e-4)
