"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

set_option = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a setting, such as model.n_layers=4."
)
cluster_option = click.option(
    "--cluster", required=True, metavar="NAME", help="A file of configs/cluster, by name, or any YAML file."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object for scripts.")
runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: Path(os.environ.get("ESCALA_RUNS", "runs")),
    show_default="$ESCALA_RUNS or ./runs",
    help="Directory under which runs and sweeps are kept.",
)
