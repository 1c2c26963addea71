"""Whether a configured cluster answers: one short question to each, which starts nothing."""

from __future__ import annotations

from typing import Any

from launch.cluster.backends import find_backend
from launch.cluster.config import load_cluster
from trainer.contract.errors import UserError


def describe(name: str) -> dict[str, object]:
    """Return what a cluster is and what it answered, as plain values. A file that cannot be read is no answer."""
    row: dict[str, Any] = {"name": name, "backend": None, "nodes": None, "ranks_per_node": None}
    try:
        cluster = load_cluster(name)
        row |= {"backend": cluster.backend, "nodes": cluster.nodes, "ranks_per_node": cluster.ranks_per_node}
        return {**row, "answers": True, "said": find_backend(cluster.backend).reach(cluster)}
    except (UserError, OSError) as error:
        return {**row, "answers": False, "said": str(error)}
