"""`escala evaluate`: score a trained run on a whole set, as published tables do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from launch.commands.options import json_option, runs_option
from launch.commands.settings import settings_options
from trainer.config.scoring import ScoringConfig


@click.command()
@click.argument("run")
@settings_options(ScoringConfig)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON to this file, too.")
@runs_option
@json_option
def evaluate(run: str, out: Path | None, runs: Path, as_json: bool, **settings: Any) -> None:
    """Score the newest checkpoint of RUN, a directory or a name, on every token of a set.

    Prints loss, perplexity by token and by word, bits per byte, and the loss by the number of tokens read before. A
    word is what white space separates, and each line's end is one: so sub-word models compare with word-level tables.

    \b
    Examples:
      escala evaluate tiny
      escala evaluate runs/wikitext --split test --stride 64
      escala evaluate runs/lstm --split test --carry-state --cache 2000 --cache-theta 0.3 --cache-weight 0.1
      escala evaluate runs/tiny --data data/other --split train --tokens 100000 --out scored.json
    """
    from launch.run.rank_packages import need_rank_packages
    from launch.watch.find_runs import find_run

    need_rank_packages()
    wanted = {name: value for name, value in settings.items() if value is not None and value is not False}
    found = find_run(runs, run)
    request = {"run": str(found), "settings": wanted, "out": None if out is None else str(out), "json": as_json}
    command = [sys.executable, "-m", "trainer.evaluation.evaluate"]
    sys.exit(subprocess.run(command, input=json.dumps(request).encode()).returncode)
