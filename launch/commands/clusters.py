"""`escala clusters`: what is configured, and whether it answers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from launch.commands.options import json_option
from trainer.contract.plain_text import plain


@click.command()
@click.argument("names", nargs=-1, metavar="[CLUSTER]...")
@json_option
def clusters(names: tuple[str, ...], as_json: bool) -> None:
    """List the clusters of configs/cluster, or those named, and ask each whether it answers. Nothing is started there.

    \b
    Examples:
      escala clusters
      escala clusters slurm my-cluster.yaml
      escala clusters --json | jq -r '.[] | select(.answers) | .name'
    """
    from concurrent.futures import ThreadPoolExecutor

    from launch.cluster.reachable import describe
    from trainer.config.load import config_names

    known = names or tuple(config_names("cluster"))
    with ThreadPoolExecutor(max(1, len(known))) as pool:
        rows = list(pool.map(describe, known))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    wide = max((len(Path(str(row["name"])).name) for row in rows), default=0)
    for row in rows:
        size = "" if row["nodes"] is None else f"{row['nodes']} x {row['ranks_per_node']} ranks"
        word = "answers" if row["answers"] else "no answer"
        line = f"{Path(str(row['name'])).name:<{wide}}  {row['backend'] or '':<10}  {size:<16}  {word}: {row['said']}"
        click.echo(plain(line))
