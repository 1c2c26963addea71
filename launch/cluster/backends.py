"""Backends by name. Each is imported only when it is asked for.

A package of yours may add one through the entry point group `escala.backends`, which names a `Driven` or `Queued`.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from launch.cluster.backend import Driven, Queued
from trainer.contract.errors import UserError, did_you_mean

GROUP = "escala.backends"
THIS_MACHINE = "local"  # where runs go that name no cluster
BACKENDS = {
    THIS_MACHINE: "launch.cluster.local.descriptor:LOCAL",
    "slurm": "launch.cluster.slurm.descriptor:SLURM",
    "ssh": "launch.cluster.ssh.descriptor:SSH",
    "kubernetes": "launch.cluster.kubernetes.descriptor:KUBERNETES",
    "accelerate": "launch.cluster.accelerate.descriptor:ACCELERATE",
}


def backend_names() -> list[str]:
    """Return the names of all backends, those of other packages last."""
    return list(dict.fromkeys([*BACKENDS, *sorted(_added())]))


@cache
def find_backend(name: str) -> Driven | Queued:
    """Return a backend by its name. Raises UserError for one that is not known or cannot be loaded."""
    if name in BACKENDS:
        module, _, attribute = BACKENDS[name].partition(":")
        found: object = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, Driven | Queued)
        return found
    added = _added()
    if name not in added:
        raise UserError(f"there is no backend {name!r}{did_you_mean(name, backend_names())}")
    try:
        found = added[name].load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"backend {name!r} cannot be loaded from {added[name].value} ({error}): reinstall it") from None
    if not isinstance(found, Driven | Queued):
        raise UserError(f"backend {name!r}: {added[name].value} is neither a Driven nor a Queued")
    return found


def known_backend(name: str) -> Driven | Queued | None:
    """Return a backend by its name, None for one that is not known here: a record may name one of elsewhere."""
    try:
        return find_backend(name)
    except UserError:
        return None


def known_backends() -> list[Driven | Queued]:
    """Return all backends, less those of packages that cannot be loaded."""
    return [kind for name in backend_names() if (kind := known_backend(name)) is not None]


def is_driven(name: str) -> bool:
    """Tell whether a process of ours drives the jobs of a backend; false for one that is not known here."""
    return isinstance(known_backend(name), Driven)


def queued(name: str) -> Queued | None:
    """Return a backend whose scheduler keeps jobs; None for one that is driven, or not known here."""
    found = known_backend(name)
    return found if isinstance(found, Queued) else None


@cache
def _added() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
