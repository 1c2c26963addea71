"""Which module first makes a number that is not finite: one step taken again, with every tensor looked at.

A step that was skipped changed nothing, so the same batch can be taken again in the same state. Hooks then look at what
each module returns in the forward pass, at the gradient of what it was given in the backward pass, and at the gradients
of its parameters. The first that is not finite names the module. Costs a synchronisation for each tensor: never on in
training.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainer.engine.batch import Batch
from trainer.engine.compiled import uncompiled
from trainer.engine.engine import Engine
from trainer.parallel.first_rank import from_first_rank, to_first_rank
from trainer.parallel.tensor.local import local


@dataclass(frozen=True)
class Finding:
    """The first tensor of one rank that was not finite. `order` counts what was looked at before."""

    order: int
    phase: str  # batch, forward or backward
    module: str  # its name in the model, as in checkpoints
    kind: str  # of the module
    tensor: str  # which of its tensors
    shape: tuple[int, ...]
    nans: int
    infinities: int
    bad_parameters: tuple[str, ...] = ()  # of the module itself, which were not finite before the step
    host: str = field(default_factory=socket.gethostname)


class Hooks:
    """Looks at every tensor that passes through the modules of a model until `remove`."""

    def __init__(self, model: nn.Module) -> None:
        self.first: Finding | None = None
        self._order = 0
        self._handles: list[Any] = []
        self._heard: set[int] = set()  # parameters that have a hook, by their id
        for name, module in model.named_modules():
            self._hear_parameters(name, module)
            self._handles.append(module.register_forward_pre_hook(self._before(name)))
            self._handles.append(module.register_forward_hook(self._after(name)))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def look(self, tensor: Tensor, phase: str, name: str, module: nn.Module | None, which: str) -> None:
        """Note a tensor if it is the first that is not finite."""
        self._order += 1
        if self.first is not None or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
            return
        bad = [] if module is None else [n for n, p in module.named_parameters(recurse=False) if _is_bad(p)]
        numbers = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        kind = "" if module is None else type(module).__name__
        self.first = Finding(self._order, phase, name, kind, which, tuple(tensor.shape), *numbers, tuple(bad))

    def _hear_parameters(self, name: str, module: nn.Module) -> None:
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in self._heard:
                self._heard.add(id(parameter))
                self._on_gradient(parameter, name, module, f"gradient of {parameter_name}", keep=True)

    def _before(self, name: str) -> Any:
        """FSDP puts whole parameters in the place of its shards for a pass, and gradients go to those alone."""

        def hook(module: nn.Module, inputs: Any) -> None:
            self._hear_parameters(name, module)

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                self.look(tensor.detach(), "forward", name, module, "output")
            for number, tensor in enumerate(_tensors(inputs)):
                if tensor.requires_grad:
                    self._on_gradient(tensor, name, module, f"gradient of its input {number}", keep=False)

        return hook

    def _on_gradient(self, tensor: Tensor, name: str, module: nn.Module, which: str, *, keep: bool) -> None:
        def hook(gradient: Tensor) -> None:
            self.look(gradient, "backward", name, module, which)

        handle = tensor.register_hook(hook)
        if keep:
            self._handles.append(handle)


def trace_step(engine: Engine, micro_batches: Sequence[Batch], lr: float) -> dict[str, Any]:
    """Take the step before this one again and return where it first was not finite, as plain values. A collective call.

    With `rank` of all ranks the one that came to it earliest in the order of the step, and the lowest of those. Without
    `module` where every tensor was finite: `repeats` says whether the step's result was not, all the same. The engine
    must not be trained on where the step is finite this time, for then it is taken.
    """
    hooks = Hooks(engine.module)
    engine.step -= 1  # dropout depends on it
    try:
        for batch in micro_batches:
            if batch.weights is not None:
                hooks.look(batch.weights, "batch", "", None, "weights of the tokens")
        with uncompiled():
            outcome = engine.train_step(micro_batches, lr)
    finally:
        hooks.remove()
    mine = json.dumps(None if hooks.first is None else asdict(hooks.first))
    texts = to_first_rank(mine, engine.device)
    found: dict[str, Any] = json.loads(from_first_rank(lambda: json.dumps(_earliest(texts)), engine.device))
    return {"repeats": not outcome.finite, **found}


def sentence(found: dict[str, Any]) -> str:
    """Say what `trace_step` found."""
    if "module" not in found:
        if not found["repeats"]:
            return "the same step is finite when it is taken again: suspect the memory or the processor of a rank"
        return "every module's numbers are finite: they overflow where gradients are summed over tensors or ranks"
    where = f"{found['phase']} pass of {found['module'] or 'the model'} ({found['kind']})"
    if found["phase"] == "batch":
        where = "batch"
    size = "x".join(map(str, found["shape"])) or "1"
    text = (
        f"first not finite on rank {found['rank']}: the {found['tensor']} in the {where}: "
        f"{found['nans']} nan and {found['infinities']} inf of {size}"
    )
    bad = ", ".join(found["bad_parameters"])
    return text + (f"; its {bad} was not finite before the step" if bad else "")


def _earliest(texts: Sequence[str]) -> dict[str, Any]:
    found = [{"rank": rank, **row} for rank, text in enumerate(texts) if (row := json.loads(text)) is not None]
    return min(found, key=lambda row: (row["order"], row["rank"]), default={})


def _is_bad(parameter: Tensor) -> bool:
    return not bool(torch.isfinite(local(parameter)).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of what a module takes or returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
