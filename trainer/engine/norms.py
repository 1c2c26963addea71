"""Norms by kind of parameter in one step: of gradients, parameters and updates; and the size of activations.

They come from what every engine shows, fp32 weights and the first moments, so they mean the same at any layout. Adam's
first moment is m' = b m + (1 - b) g (Kingma and Ba 2015, algorithm 1), which gives the clipped gradient g back; where a
parameter has no such moment (Muon's matrices), its gradient is left out. A measured step copies this rank's share of
the weights and moments; other steps cost nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.contract.expected import PARAMETER_NORMS
from trainer.engine.engine import Engine, StepOutcome
from trainer.engine.protocol import Fragment
from trainer.models.roles import role_of

MOMENT = "exp_avg"
GRADIENT, PARAMETER, UPDATE = "grad_norms", PARAMETER_NORMS, "update_norms"
ACTIVATION = "activation_rms"
Measured = dict[str, dict[str, float]]


class Norms:
    """Measures single steps of one engine. Every rank makes one and measures the same steps.

    With `activations` also the root mean square of what each block gives, over the first rank's last micro-batch.
    """

    def __init__(self, engine: Engine, *, activations: bool) -> None:
        self._engine, self._activations = engine, activations
        roles: Any = engine.module.roles
        self._kinds = {name: role_of(roles, name).group for name, _ in engine.module.named_parameters()}

    def around(self, step: Callable[[], StepOutcome]) -> tuple[StepOutcome, Measured]:
        """Take a step and return its outcome and norms: what is measured -> kind of parameter -> norm.

        A collective call. Norms of gradients are before clipping; they are left out where the step was skipped.
        """
        before = {one.name: self._copies(one) for one in self._owned()}
        sizes: dict[str, float] = {}
        hooks = self._listen(sizes) if self._activations and self._engine.mesh.is_first else []
        try:
            outcome = step()
        finally:
            for hook in hooks:
                hook.remove()
        measured = self._measured(before, outcome)
        if self._activations and sizes:
            measured[ACTIVATION] = sizes
        return outcome, measured

    def _owned(self) -> list[Fragment]:
        mesh, splits = self._engine.mesh, self._engine.splits
        return [
            one for one in self._engine.sharded.fragments()
            if one.owned[0] < one.owned[1] and (splits[one.name].dim is not None or mesh.tp_rank == 0)
        ]  # fmt: skip

    def _parts(self, fragment: Fragment) -> tuple[Tensor, Tensor | None]:
        """Return this rank's own weights and first moments of a fragment."""
        window = slice(fragment.owned[0] - fragment.held[0], fragment.owned[1] - fragment.held[0])
        moment = self._engine.sharded.moments(fragment).get(MOMENT)
        return fragment.weight[window], None if moment is None else moment[window]

    def _copies(self, fragment: Fragment) -> tuple[Tensor, Tensor | None]:
        weight, moment = self._parts(fragment)
        return weight.clone(), None if moment is None else moment.clone()

    @torch.no_grad()
    def _measured(self, before: dict[str, tuple[Tensor, Tensor | None]], outcome: StepOutcome) -> Measured:
        optim, kinds = self._engine.config.optim, sorted(set(self._kinds.values()))
        beta, scale = optim.betas[0], 1.0
        if optim.clip_norm > 0 and outcome.finite:
            scale = max(1.0, (outcome.grad_norm + 1e-6) / optim.clip_norm)
        sums: dict[tuple[str, str], Tensor] = defaultdict(lambda: torch.zeros((), device=self._engine.device))
        for one in self._owned():
            (weight, moment), (old, old_moment), kind = self._parts(one), before[one.name], self._kinds[one.name]
            sums[PARAMETER, kind] += _square(weight)
            sums[UPDATE, kind] += _square(weight - old)
            if moment is not None and not outcome.skipped:
                change = moment if old_moment is None else moment - beta * old_moment
                sums[GRADIENT, kind] += _square(change * (scale / (1 - beta)))
        places = [(what, kind) for what in (GRADIENT, PARAMETER, UPDATE) for kind in kinds]
        vector = torch.stack([sums[place] for place in places])
        if self._engine.mesh.world > 1:
            dist.all_reduce(vector)
        found: Measured = defaultdict(dict)
        for (what, kind), square in zip(places, vector.tolist(), strict=True):
            if what != GRADIENT or square > 0:
                found[what][kind] = math.sqrt(square)
        return dict(found)

    def _listen(self, sizes: dict[str, float]) -> list[Any]:
        """Have each block say how large what it gives is."""

        def heard(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, given: Any, output: Any) -> None:
                tensor = output[0] if isinstance(output, tuple) else output
                if torch.is_tensor(tensor):
                    sizes[name] = float(tensor.detach().float().square().mean().sqrt())

            return hook

        blocks: Any = getattr(self._engine.module, "blocks", ())
        return [block.register_forward_hook(heard(str(number))) for number, block in enumerate(blocks)]


def _square(values: Tensor) -> Tensor:
    return values.float().square().sum()
