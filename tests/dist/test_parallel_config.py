"""The arithmetic of layouts: degrees, groups, shares, retention, and errors with all their numbers."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dist.runs import tiny
from trainer.checkpoint.compatible import check_architecture
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.retention import steps_to_delete
from trainer.config.load import run_from_values
from trainer.config.parallel import Degrees, ParallelConfig, check_model_splits, node_warning, resolve_degrees
from trainer.contract.errors import UserError
from trainer.guard.watchdog import Watchdog
from trainer.models.roles import Constant, Role, SplitKind
from trainer.parallel.mesh import axis_groups
from trainer.parallel.tensor.shard import take_share
from trainer.parallel.tensor.split import split_parameter
from trainer.plan.deepspeed import deepspeed_config
from trainer.plan.sharding import check_optimizer, effective_stage

degrees = st.builds(Degrees, data=st.integers(1, 4), sequence=st.integers(1, 4), tensor=st.integers(1, 4))


@given(degrees)
def test_left_over_degree(d: Degrees) -> None:
    assert resolve_degrees(ParallelConfig(data=-1, sequence=d.sequence, tensor=d.tensor), d.world) == d


@pytest.mark.parametrize(
    ("config", "world", "expected"),
    [
        ({"tensor": 4}, 6, "sequence 1 x tensor 4 = 4 does not divide the world of 6"),
        ({"data": 2, "tensor": 2}, 8, "data 2 x sequence 1 x tensor 2 = 4 ranks, but the world has 8"),
        ({"data": 0}, 1, "parallel.data is 0"),
    ],
)
def test_degrees_that_do_not_fit(config: dict[str, int], world: int, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        resolve_degrees(ParallelConfig(**config), world)


@given(degrees)
def test_groups_partition_the_world_and_tensor_ranks_are_neighbours(d: Degrees) -> None:
    for groups in axis_groups(d).values():
        assert sorted(rank for group in groups for rank in group) == list(range(d.world))
    for group in axis_groups(d)["tensor"]:
        assert group == list(range(group[0], group[0] + d.tensor))


def test_a_tensor_group_across_nodes_is_warned_about() -> None:
    assert node_warning(Degrees(2, 1, 4), 8) is None
    assert "does not divide the 6 ranks of a node" in str(node_warning(Degrees(3, 1, 4), 6))


@pytest.mark.parametrize(
    ("model", "d", "expected"),
    [
        ({"n_heads": 6, "d_model": 48}, Degrees(1, 1, 4), "n_heads 6 is not a multiple of the tensor degree 4"),
        ({"n_kv_heads": 2}, Degrees(1, 1, 4), "tensor degree 4 is greater than the 2 key/value heads"),
        ({"d_ff": 50}, Degrees(1, 1, 4), "d_ff 50 is not a multiple of the tensor degree 4"),
        ({"vocab_size": 65}, Degrees(1, 1, 2), "vocabulary rows 65 .* set model.vocab_multiple_of to 2"),
        ({"context_length": 15}, Degrees(1, 2, 1), "context_length 15 is not a multiple of the sequence degree 2"),
        ({}, Degrees(1, 4, 2), "n_heads 4 / tensor 2 = 2 heads on a rank, not a multiple of the sequence degree 4"),
    ],
)
def test_models_that_do_not_split(model: dict[str, int], d: Degrees, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        check_model_splits(tiny(model=model).model, d)


@pytest.mark.parametrize(("rows", "tensor", "fits"), [(65, 2, 1), (66, 4, 2), (65, 8, 1)])
def test_what_is_advised_for_an_odd_vocabulary_works(rows: int, tensor: int, fits: int) -> None:
    """Both ways: other rows in a run that begins, another degree in one whose checkpoints have these."""
    model = {"n_heads": 8, "vocab_size": rows}
    with pytest.raises(UserError) as caught:
        check_model_splits(tiny(model=model).model, Degrees(1, 1, tensor))
    advised = re.search(r"vocab_multiple_of to (\d+).* parallel\.tensor to (\d+)", str(caught.value))
    assert advised is not None and int(advised[2]) == fits
    check_model_splits(tiny(model={**model, "vocab_multiple_of": int(advised[1])}).model, Degrees(1, 1, tensor))
    check_model_splits(tiny(model=model).model, Degrees(1, 1, int(advised[2])))


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"vocab_size": 128}, ""),
        ({"vocab_size": 100, "vocab_multiple_of": 64}, ""),
        ({"vocab_size": 100}, "vocab_size is 128"),
    ],
)
def test_a_warm_start_may_state_the_same_rows_in_other_words(change: dict[str, int], refused: str) -> None:
    """An imported model says how many rows its embedding has, not how many of them are padding."""
    there = tiny(model={"vocab_size": 128}).model.architecture()
    manifest = Manifest(step=0, architecture=there, state={}, optimizer={}, parameters={}, files={})
    model = tiny(model=change).model
    if refused:
        with pytest.raises(UserError, match=refused):
            check_architecture(manifest, Path("x"), model, weights_only=True)
    else:
        check_architecture(manifest, Path("x"), model, weights_only=True)
    if model.architecture() != there:
        with pytest.raises(UserError, match="is of another model"):
            check_architecture(manifest, Path("x"), model)


@given(
    st.sampled_from([("column", ()), ("column", (32, 16, 16)), ("column", (32, 32)), ("row", ()), ("vocab", ())]),
    st.sampled_from([1, 2, 4]),
)
def test_shares_hold_every_value_once(how: tuple[SplitKind, tuple[int, ...]], tensor: int) -> None:
    role = Role(Constant(0.0), "matrix", split=how[0], parts=how[1])
    whole = torch.arange(64.0 * 24).view(64, 24)
    shares = []
    for rank in range(tensor):
        split = split_parameter(role, (64, 24), tp_rank=rank, tp_size=tensor)
        shares.append(take_share(whole, split))
        assert tuple(shares[-1].shape) == split.local_shape
    assert torch.equal(torch.cat([share.flatten() for share in shares]).sort().values, whole.flatten())


@settings(max_examples=50)
@given(st.sets(st.integers(0, 200)), st.integers(1, 4), st.none() | st.integers(1, 20), st.sets(st.integers(0, 200)))
def test_retention(steps: set[int], keep_last: int, keep_every: int | None, keep_at: set[int]) -> None:
    gone = set(steps_to_delete(steps, keep_last=keep_last, keep_every=keep_every, keep_at=keep_at))
    assert not gone & keep_at
    assert gone <= steps
    assert set(sorted(steps)[-keep_last:]) <= steps - gone
    others = sorted(steps - gone)[:-keep_last]
    assert all(step in keep_at or (keep_every and step % keep_every == 0) for step in others)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(UserError, match="offload 'parameters' needs zero_stage 3, zero_stage is 1"):
        tiny(parallel={"offload": "parameters"})
    with pytest.raises(UserError, match="offload 'optimizer' needs zero_stage 1, 2 or 3"):
        tiny(parallel={"offload": "optimizer", "zero_stage": 0})
    with pytest.raises(UserError, match=r"parallel\.offload is optimizer: set it to none"):
        check_optimizer(tiny(optim={"name": "muon"}, parallel={"offload": "optimizer"}))


def test_one_replica_has_nothing_to_shard() -> None:
    config = tiny(parallel={"zero_stage": 2})
    assert effective_stage(config, replicas=1, precision="fp32") == 0
    assert effective_stage(config, replicas=2, precision="fp32") == 2
    assert effective_stage(config, replicas=1, precision="bf16") == 2
    assert deepspeed_config(config, stage=2, accumulation=4, precision="bf16")["bf16"]["enabled"]


@given(st.integers(100, 300))
def test_buckets_are_even_as_deepspeed_asks(width: int) -> None:
    model = {"family": "recurrent", "d_model": width, "n_layers": 1, "vocab_size": 33_333}
    values = {"model": model, "data": {}, "steps": 1, "batch": {"tokens_per_step": 2048}}
    zero = deepspeed_config(run_from_values(values, "even"), stage=1, accumulation=1, precision="fp32")
    assert zero["zero_optimization"]["allgather_bucket_size"] % 2 == 0  # type: ignore[index]


def test_the_watchdog_bites_on_silence_only() -> None:
    time, bitten = [0.0], threading.Event()
    watchdog = Watchdog(0.04, clock=lambda: time[0], on_silence=lambda _: bitten.set())
    watchdog.beat()
    assert not bitten.wait(0.1)
    time[0] = 0.05
    assert bitten.wait(5)
    watchdog.close()
