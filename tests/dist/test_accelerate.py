"""The example of docs/accelerate.md: parts of Escala in a training loop that Accelerate drives."""

from __future__ import annotations

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import reference, tiny

STEPS = 5


def train_with_accelerate(zero_stage: int) -> list[float]:
    """Return the losses of a few steps of a user's own loop on this world."""
    import os

    import torch
    from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs

    from tests.dist.runs import global_batch, micro_batches
    from trainer.engine.deepspeed.spread import without_compiled_collectives
    from trainer.models.build import build_model
    from trainer.optim.groups import parameter_groups

    without_compiled_collectives()
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    config = tiny()
    plugin = DeepSpeedPlugin(
        hf_ds_config={
            "train_micro_batch_size_per_gpu": 4,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": config.optim.clip_norm,
            "zero_optimization": {"stage": zero_stage},
            "zero_allow_untested_optimizer": True,
        }
    )
    # On a CPU each rank believes to be alone unless the backend is named.
    accelerator = Accelerator(deepspeed_plugin=plugin, kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")])
    model = build_model(config.model, config.seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.optim), lr=3e-3, betas=(0.9, 0.95), eps=config.optim.eps
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    losses = []
    for step in range(STEPS):
        (batch,) = micro_batches(global_batch(step), accelerator.process_index, accelerator.num_processes, 1)
        loss = model(batch.inputs, batch.targets).mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(accelerator.reduce(loss.detach(), "mean")))
    return losses


def test_two_ranks_equal_one_process(ranks: RankPool) -> None:
    expected = [loss for loss, _ in reference(tiny(), STEPS)]
    for losses in ranks.run(2, train_with_accelerate, 2):
        assert losses == pytest.approx(expected, abs=2e-6)
