"""How much do activations change in the first steps, at several widths? `launch/scaling/other/coordinates.py` judges.

`python -m trainer.optim.coordinate_check` reads a request as JSON from standard input and writes a line for each width
and seed. One process on a CPU in float32; the batch is the same at all widths, drawn by Zipf's law.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.load import run_from_values
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_USER_ERROR
from trainer.models.build import build_model
from trainer.models.interface import LanguageModel
from trainer.optim.groups import parameter_groups, set_rates

SEQUENCES, MOST_TOKENS, VOCABULARY = 8, 64, 256  # the last where the configuration does not state one


def main() -> int:
    """Entry point."""
    request = json.load(sys.stdin)
    try:
        for line in check(request):
            print(json.dumps(line), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def check(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield for each width and seed the mean size of each kind of activation, and of its change.

    `request` has `runs`, a configuration for each width, `seeds`, `steps` and `lr`, the rate of every step.
    """
    for values in request["runs"]:
        config = run_from_values(values, "coordcheck")
        for seed in range(request["seeds"]):
            sizes = activations_of(config, seed, request["steps"], request["lr"])
            yield {"d_model": config.model.d_model, "seed": seed, "activations": sizes}


def activations_of(config: RunConfig, seed: int, steps: int, lr: float) -> dict[str, dict[str, float]]:
    """Train some steps on one batch; return the mean absolute value of each kind, at first, at last and of the change.

    Raises UserError where values are not finite.
    """
    if config.model.vocab_size is None:
        config = config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": VOCABULARY})})
    model, optim = build_model(config.model, seed), config.optim
    optimizer = torch.optim.AdamW(parameter_groups(model, optim), lr=lr, betas=optim.betas)
    set_rates(optimizer.param_groups, lr)
    tokens = zipf(config.model.vocab_rows, min(config.model.context_length, MOST_TOKENS) + 1, seed)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    before = probe(model, inputs)
    for _ in range(steps):
        model(inputs, targets).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = probe(model, inputs)
    found = {kind: _sizes(values, after[kind]) for kind, values in before.items()}
    if not all(torch.isfinite(torch.tensor(list(sizes.values()))).all() for sizes in found.values()):
        raise UserError(
            f"at width {config.model.d_model} activations are not finite after {steps} steps: lower optim.lr"
        )
    return found


def zipf(vocabulary: int, length: int, seed: int) -> Tensor:
    """Return tokens (SEQUENCES, length), the r-th with a frequency proportional to 1 / r."""
    weights = 1 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(weights, SEQUENCES * length, replacement=True, generator=generator)
    return drawn.view(SEQUENCES, length)


@torch.no_grad()
def probe(model: LanguageModel, inputs: Tensor) -> dict[str, list[Tensor]]:
    """Return the activations of one pass by kind, those of all blocks in one list."""
    found: dict[str, list[Tensor]] = {}

    def keep(kind: str, module: nn.Module) -> Any:
        return module.register_forward_hook(lambda _, __, output: found.setdefault(kind, []).append(output.clone()))

    hooks = [keep("embedding", model.embed)]
    for block in model.blocks:
        mixer, mlp = getattr(block, "mixer", None), getattr(block, "mlp", None)
        hooks += [keep("mixer", mixer)] if isinstance(mixer, nn.Module) and not isinstance(mixer, nn.ModuleList) else []
        hooks += [keep("mlp", mlp)] if isinstance(mlp, nn.Module) else []
        hooks.append(keep("block", block))
    try:
        logits = model.eval()(inputs)
    finally:
        model.train()
        for hook in hooks:
            hook.remove()
    return {**found, "logits": [logits]}


def _sizes(before: list[Tensor], after: list[Tensor]) -> dict[str, float]:
    """Return mean absolute values over all places and blocks."""
    pairs = list(zip(before, after, strict=True))
    return {
        "first": _mean([old for old, _ in pairs]),
        "last": _mean([new for _, new in pairs]),
        "change": _mean([new - old for old, new in pairs]),
    }


def _mean(tensors: list[Tensor]) -> float:
    return sum(float(tensor.abs().mean()) for tensor in tensors) / len(tensors)


if __name__ == "__main__":
    sys.exit(main())
