"""`escala sample`: continue a prompt with a trained model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from launch.commands.options import json_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--prompt", default="", help="Text to continue. Default: the beginning of a document.")
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Continuations.")
@click.option("--tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Length of each.")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=int, help="Sample from the k best tokens only.")
@click.option("--top-p", type=float, help="Sample from the smallest set with this probability (nucleus).")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def sample(
    run: Path,
    prompt: str,
    count: int,
    tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Continue a prompt with the newest checkpoint of the run directory RUN.

    \b
    Examples:
      escala sample runs/tiny --prompt 'def '
      escala sample runs/tiny --count 3 --tokens 100 --top-p 0.9
      escala sample runs/tiny --prompt 'import' --temperature 0 --json
    """
    options = {
        "--prompt": prompt, "--count": count, "--tokens": tokens, "--temperature": temperature,
        "--top-k": top_k, "--top-p": top_p, "--seed": seed,
    }  # fmt: skip
    from launch.run.rank_packages import need_rank_packages

    need_rank_packages()
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, "-m", "trainer.decoding.sample", str(run), *given, *(["--json"] if as_json else [])]
    sys.exit(subprocess.run(command).returncode)
