"""fp8 as far as a CPU can show it: the arithmetic, what it covers, and what is refused. Never run on a GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.dist.pool import RankPool
from tests.dist.runs import TOKENS, reference, tiny
from trainer.contract.errors import UserError
from trainer.parallel import fp8
from trainer.parallel.fp8 import FORWARD, GRADIENT, check_gpu, linear, multiply_in_fp8, to_fp8
from trainer.plan.plan import make_plan


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([(FORWARD, 2**-4), (GRADIENT, 2**-3)]), st.floats(-30, 30), st.integers(0, 99))
def test_scaling_keeps_every_magnitude(kind: tuple[torch.dtype, float], exponent: float, seed: int) -> None:
    """Rounding is half a unit in the last place: 3 bits of mantissa in E4M3, 2 in E5M2, and nothing overflows."""
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    values, scale = to_fp8(x, kind[0])
    back = values.float() * scale
    smallest_step = float(x.abs().max()) * torch.finfo(kind[0]).smallest_normal / torch.finfo(kind[0]).max
    assert ((back - x).abs() <= kind[1] * x.abs() + smallest_step).all()
    assert values.float().abs().max() == torch.finfo(kind[0]).max


def test_zeros_stay_zeros_and_what_is_not_finite_is_not_hidden() -> None:
    values, scale = to_fp8(torch.zeros(4, 4), FORWARD)
    assert (values.float() * scale == 0).all()
    for bad in (float("nan"), float("inf")):
        x = torch.ones(16, 16)
        x[3, 4] = bad
        assert not torch.isfinite(linear(x, torch.ones(16, 16))).all()


def products(function: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output of a linear function and the gradients of its input and weight."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 32, 64, generator=random).requires_grad_()
    weight = (0.1 * torch.randn(48, 64, generator=random)).requires_grad_()
    y = function(x, weight, torch.ones(48))
    y.backward(torch.randn(y.shape, generator=random).to(y.dtype))
    assert x.grad is not None and weight.grad is not None
    return y.detach(), x.grad, weight.grad


def test_all_three_products_are_near_those_of_float32() -> None:
    """E5M2 rounds by up to 1/8, 0.052 in the mean square, and E4M3 by half as much: 0.058 for a product of both."""
    for got, want in zip(products(linear), products(nn.functional.linear), strict=True):
        assert got.shape == want.shape
        error = float((got.float() - want).norm() / want.norm())
        assert 1e-3 < error < 0.07


def test_only_the_blocks_multiply_in_fp8() -> None:
    from trainer.models.build import build_model

    model = build_model(tiny().model, 0)
    multiply_in_fp8(model.blocks)
    changed = {name for name, module in model.named_modules() if "forward" in vars(module)}
    assert changed == {
        f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn.qkv", "attn.out", "mlp.gate_up", "mlp.down")
    }


def train(tensor: int, zero_stage: int, compiled: bool = False) -> tuple[list[float], list[int]]:
    """Train in fp8 on this world as if it had the GPUs; return the losses and how many products each step took.

    Compiled, none is counted, which would be no part of a program: a block must be one, so its products are in it.
    """
    from tests.dist.runs import global_batch, micro_batches
    from trainer.engine import build as module
    from trainer.models.build import build_model
    from trainer.parallel.start import start

    module.check_gpu = lambda device: None  # type: ignore[attr-defined]
    plain, calls = fp8.scaled_product, [0]

    def counted(a: Any, b: Any) -> Tensor:
        calls[0] += 1
        return plain(a, b)

    fp8.scaled_product = plain if compiled else counted
    parallel = {"tensor": tensor, "zero_stage": zero_stage, "compile": compiled}
    config = tiny(precision="fp8", device="auto", parallel=parallel)
    compile_ = torch.compile
    torch.compile = partial(compile_, backend="aot_eager_decomp_partition", fullgraph=True)
    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    engine = module.build_engine(config, build_model(config.model, 0), mesh, lr=1.0, accumulation=1, device=device)
    losses, counts = [], []
    for step in range(10):
        batches = micro_batches(global_batch(step), mesh.dp_rank, mesh.dp_size, 1)
        calls[0] = 0
        losses.append(engine.train_step(batches, float(config.optim.lr)).loss)
        counts.append(calls[0])
    engine.close()
    fp8.scaled_product, module.check_gpu, torch.compile = plain, check_gpu, compile_  # type: ignore[attr-defined]
    return losses, counts


@pytest.mark.parametrize(("world", "tensor", "zero_stage"), [(1, 1, 1), (2, 2, 0), (4, 2, 1), (2, 1, 3)])
def test_layouts_train_as_one_process_in_float32(ranks: RankPool, world: int, tensor: int, zero_stage: int) -> None:
    expected = [loss for loss, _ in reference(tiny(), 10)]
    for losses, counts in ranks.run(world, train, tensor, zero_stage):
        assert losses == pytest.approx(expected, abs=3e-2)
        assert losses != pytest.approx(expected, abs=1e-5)
        assert set(counts) == {2 * 4 * 3}  # blocks x layers x products


def test_compiled_blocks_train_alike(ranks: RankPool) -> None:
    """It rounds elsewhere, which casts to 3 bits of mantissa magnify: as near to float32, not equal to uncompiled."""
    expected = [loss for loss, _ in reference(tiny(), 10)]
    for losses, _ in ranks.run(2, train, 2, 1, True, timeout=400.0):
        assert losses == pytest.approx(expected, abs=3e-2)
        assert losses != pytest.approx(expected, abs=1e-5)


def test_refusals_name_the_gpu_that_is_needed_and_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = r"precision fp8 needs a Hopper GPU \(compute capability 9\.0 or above\), but "
    with pytest.raises(UserError, match=needs + "device is cpu"):
        tiny(precision="fp8")
    config = tiny(precision="fp8", device="auto")
    with pytest.raises(UserError, match=needs + "there is no GPU"):
        make_plan(config, world=1, gpu=False)
    with pytest.raises(UserError, match=needs + "there is no GPU"):
        check_gpu(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    with pytest.raises(UserError, match=needs + "NVIDIA A100-SXM4-80GB has 8.0: set precision to bf16"):
        check_gpu(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    check_gpu(torch.device("cuda", 0))


def test_widths_that_the_tensor_cores_do_not_take_are_refused_with_the_numbers() -> None:
    assert make_plan(tiny(precision="fp8", device="auto"), world=2, gpu=True).precision == "fp8"
    narrow = tiny(precision="fp8", device="auto", model={"d_ff": 40})
    with pytest.raises(UserError, match="d_ff / tensor 1 is 40, not a multiple of 16"):
        make_plan(narrow, world=1, gpu=True)
    split = tiny(precision="fp8", device="auto", parallel={"tensor": 4})
    with pytest.raises(UserError, match=r"n_heads x head_dim / tensor 4 is 8, not a multiple of 16"):
        make_plan(split, world=4, gpu=True)
    assert TOKENS % 16 == 0


def test_what_multiplies_in_its_own_way_is_refused() -> None:
    with pytest.raises(UserError, match=r"set parallel\.overlap to false"):
        tiny(precision="fp8", device="auto", parallel={"tensor": 2, "overlap": True})
