"""`escala doctor`: the environment, for bug reports."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click

from launch.commands.options import json_option

TOOLS = ("torchrun", "nvidia-smi", "g++", "ninja")  # beside those of the backends
VARIABLES = ("CUDA_", "NCCL_", "TORCH_", "DS_", "OMP_", "SLURM_", "ESCALA_", "WANDB_MODE", "WANDB_BASE_URL", "HF_HOME")


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Print what a bug report needs: versions, hardware, tools, settings. No secret is printed.

    \b
    Examples:
      escala doctor
      escala doctor --json > doctor.json
    """
    found = describe()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for section, values in found.items():
        click.secho(section, bold=True)
        for name, value in values.items():
            click.echo(f"  {name:<16} {value if value is not None else '-'}")


def describe() -> dict[str, dict[str, Any]]:
    """Return everything, section by section."""
    from importlib.metadata import version as installed

    from launch.cluster.backends import known_backends
    from launch.show.text import size
    from trainer.contract.hiding import looks_secret
    from trainer.node.node_check import PACKAGES, free, gpus, memory, version

    shown = {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES) and not looks_secret(k)}
    kinds = known_backends()
    packages = (*PACKAGES, "click", "rich", "scipy", *(p for kind in kinds for p in kind.packages))
    tools = (*TOOLS, *(program for kind in kinds for program in kind.programs))
    return {
        "escala": {"version": installed("escala"), "revision": _revision(), "python": platform.python_version()},
        "packages": {name: version(name) for name in packages},
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "memory": f"{size(memory())} available",
            "disk": f"{size(free(Path.cwd()))} free here",
            "/dev/shm": f"{size(free(Path('/dev/shm')))} free",  # noqa: S108 - measured, not written
            "GPUs": ", ".join(f"{g['name']} ({g['memory_mib']} MiB, driver {g['driver']})" for g in gpus()) or None,
        },
        "tools": {tool: shutil.which(tool) for tool in tools},
        "environment": shown,
    }


def _revision() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
