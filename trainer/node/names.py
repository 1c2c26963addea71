"""What a node is called. Only the standard library: a check of nodes must run where packages are missing."""

from __future__ import annotations

import os
import socket


def own_name() -> str:
    """Return this node's name: Slurm's, where it started us, for several of its nodes may share a host."""
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())
