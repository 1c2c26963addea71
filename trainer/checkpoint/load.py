"""Read a checkpoint on any layout: each rank reads the ranges that it needs, from whatever files hold them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainer.checkpoint.carried import load_carried
from trainer.checkpoint.compatible import check_architecture, check_lanes, check_optimizer
from trainer.checkpoint.manifest import Manifest, Share
from trainer.contract.errors import UserError
from trainer.engine.engine import Engine
from trainer.engine.protocol import WEIGHT, Fragment
from trainer.parallel.first_rank import agreed, by_rank, from_first_rank, to_first_rank
from trainer.parallel.tensor.split import Split


@dataclass
class Source:
    """A checkpoint opened for reading by parameter."""

    checkpoint: Path
    manifest: Manifest

    def __post_init__(self) -> None:
        self._homes: dict[str, list[tuple[str, Share]]] = defaultdict(list)
        for file, entry in self.manifest.files.items():
            for name, share in entry.shares.items():
                self._homes[name].append((file, share))
        self.steps: set[str] = set()  # that the files which were read name; those of format 1 name none
        self._open = cache(self._open_file)
        self._keys = cache(lambda file: list(self._open(file).keys()))

    def _open_file(self, name: str) -> Any:
        file = safe_open(self.checkpoint / name, framework="pt")
        self.steps |= {step for key, step in (file.metadata() or {}).items() if key == "step"}
        return file

    def moments_of(self, name: str) -> list[str]:
        """Return the optimizer's moments that are stored for a parameter."""
        keys = self._keys(self._homes[name][0][0])
        kinds = [kind for key in keys for stem, _, kind in [key.rpartition("|")] if stem == name]
        return [kind for kind in kinds if kind != WEIGHT]

    def read_range(self, name: str, kind: str, split: Split, held: tuple[int, int]) -> Tensor:
        """Return the flat range of a share of a parameter, (held[1] - held[0],) in float32.

        Where the checkpoint was cut in the same way, only the overlapping ranges are read; else the tensor shares that
        overlap this one are put together first, one parameter at a time.
        """
        same = [(f, s) for f, s in self._homes[name] if (s.dim, s.pieces) == (split.dim, split.pieces)]
        if same:
            return self._join(name, kind, same, held)
        return self.read_share(name, kind, split).view(-1)[held[0] : held[1]]

    def read_share(self, name: str, kind: str, split: Split) -> Tensor:
        """Return a whole share of a parameter in its shape; the share may be the whole parameter."""
        result = torch.empty(split.local_shape)
        shape = self.manifest.parameters[name]
        for (dim, pieces), homes in self._by_share(name).items():
            stored = Split(shape, dim, pieces)
            if not any(True for _ in _overlaps(stored, split)):
                continue
            count = torch.Size(stored.local_shape).numel()
            share = self._join(name, kind, homes, (0, count)).view(stored.local_shape)
            for axis, source, target, length in _overlaps(stored, split):
                result.narrow(axis, target, length).copy_(share.narrow(axis, source, length))
        return result

    def rows(self, file: str, prefix: str, begin: int, end: int) -> dict[str, Tensor]:
        """Return rows of the tensors of a file whose keys begin with a prefix, by the rest of the key."""
        if file not in self.manifest.files:
            raise UserError(f"{self.checkpoint} has no {file}, which its manifest speaks of: it is damaged")
        keys = [key for key in self._keys(file) if key.startswith(prefix)]
        return {key.removeprefix(prefix): self._open(file).get_slice(key)[begin:end] for key in keys}

    def _by_share(self, name: str) -> dict[tuple[int | None, Any], list[tuple[str, Share]]]:
        groups = defaultdict(list)
        for file, share in self._homes[name]:
            groups[share.dim, share.pieces].append((file, share))
        return groups

    def _join(self, name: str, kind: str, homes: list[tuple[str, Share]], held: tuple[int, int]) -> Tensor:
        """Put a flat range together from the files that hold parts of it."""
        result, filled = torch.empty(held[1] - held[0]), 0
        for file, share in homes:
            start, stop = max(held[0], share.range[0]), min(held[1], share.range[1])
            if start < stop:
                stored = self._open(file).get_slice(f"{name}|{kind}")
                result[start - held[0] : stop - held[0]] = stored[start - share.range[0] : stop - share.range[0]]
                filled += stop - start
        if filled != held[1] - held[0]:
            raise UserError(f"{self.checkpoint} holds {filled} of {held[1] - held[0]} values of {name}: it is damaged")
        return result


def _overlaps(stored: Split, wanted: Split) -> Iterator[tuple[int, int, int, int]]:
    """Yield (dim, start in stored, start in wanted, length) of what two shares have in common."""
    dim = stored.dim if stored.dim is not None else wanted.dim
    if dim is None:
        yield 0, 0, 0, stored.shape[0]
        return
    whole = ((0, stored.shape[dim]),)
    source_at = 0
    for a, b in stored.pieces or whole:
        target_at = 0
        for c, d in wanted.pieces or whole:
            start, stop = max(a, c), min(b, d)
            if start < stop:
                yield dim, source_at + start - a, target_at + start - c, stop - start
            target_at += d - c
        source_at += b - a


class UnreadableError(UserError):
    """A rank could not read what it needs of a checkpoint whose files were sound a moment before."""


@torch.no_grad()
def load(engine: Engine, checkpoint: Path, manifest: Manifest, *, weights_only: bool = False) -> None:
    """Read a checkpoint into the engine. All ranks call it, with one manifest.

    With `weights_only` the optimizer stays fresh (a warm start). Raises, on all ranks alike: `UserError` for another
    architecture or optimizer, with what differs, and where ranks come to hold weights of different steps;
    `UnreadableError` where any rank cannot read its part. The engine is then to be loaded again or given up.
    """
    check_architecture(manifest, checkpoint, engine.config.model, weights_only=weights_only)
    source = Source(checkpoint, manifest)
    if not weights_only:
        check_optimizer(manifest, checkpoint, engine.config.optim.name)
        check_lanes(manifest, checkpoint, engine.config)
    problem = ""
    try:
        if not weights_only:
            scalars = {key: float(value) for key, value in manifest.optimizer.items() if key != "name"}
            engine.sharded.prepare_moments(source.moments_of, scalars)
        for fragment in engine.sharded.fragments():
            _fill(engine, fragment, source, [] if weights_only else source.moments_of(fragment.name))
        if not weights_only:
            load_carried(engine, source)
    except (OSError, SafetensorError, UserError) as error:
        problem = f"{type(error).__name__}: {error}"
    _agree_on_problem(engine, problem)
    _agree_on_step(engine, source)
    engine.sharded.publish_weights()


def _agree_on_problem(engine: Engine, problem: str) -> None:
    found = to_first_rank(problem, engine.device)
    said = from_first_rank(lambda: "; ".join(by_rank(found, silent="")), engine.device)
    if said:
        raise UnreadableError(f"it cannot be read: {said}")


def _agree_on_step(engine: Engine, source: Source) -> None:
    """Refuse weights of several steps: a rank whose file system is stale may read another file than its peers."""
    manifest, step = source.manifest, str(source.manifest.step)
    others = sorted(source.steps - {step})
    digest = hashlib.sha256(manifest.to_json().encode()).hexdigest()[:12]
    holds = f"step {step}, manifest {digest}" + "".join(f", a file of step {other}" for other in others)
    agreed(
        holds,
        engine.device,
        lambda clauses: (
            f"ranks would train on weights of different checkpoints ({'; '.join(clauses)}): all ranks "
            f"must see {source.checkpoint} alike. Start the run again when they do"
        ),
    )
    if others:
        raise UnreadableError(f"its files are of step {', '.join(others)}")


def _fill(engine: Engine, fragment: Fragment, source: Source, names: list[str]) -> None:
    split = engine.splits[fragment.name]
    fragment.weight.copy_(source.read_range(fragment.name, WEIGHT, split, fragment.held))
    held = engine.sharded.moments(fragment)
    for kind in names:
        held[kind].copy_(source.read_range(fragment.name, kind, split, fragment.held))
