"""`escala plan`: what a run costs and whether it fits, before anything starts."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import click

from launch.commands.options import json_option, set_option


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
@click.option("--world", type=click.IntRange(min=1), default=1, show_default=True, help="Ranks of the run.")
@click.option("--vocab", type=click.IntRange(min=1), help="Vocabulary, where the data are not prepared yet.")
@json_option
def plan(config: Path, assignments: tuple[str, ...], world: int, vocab: int | None, as_json: bool) -> None:
    """Print the plan of the run CONFIG: parameters by part, FLOPs, batch, layout, memory of a rank, expected time.

    Nothing is built, downloaded or started.

    \b
    Examples:
      escala plan configs/run/tiny.yaml
      escala plan configs/run/7b.yaml --world 64 --set parallel.tensor=8
      escala plan configs/run/tiny.yaml --world 2 --json | jq .memory_bytes
    """
    from launch.backends.warm import available_cores, local_gpus
    from launch.console import make_console
    from launch.data_preparation import is_prepared
    from launch.plan_table import run_table
    from launch.sweep.estimate import matrix_rate, seconds_on_cpu
    from trainer.config.load import load_run
    from trainer.config.plan import make_plan
    from trainer.config.resolve import with_data
    from trainer.data.manifest import Manifest

    run = load_run(config, assignments)
    tokens = None
    if is_prepared(run.data):
        manifest = Manifest.open(run.data.directory)
        run, tokens = with_data(run, manifest), manifest.tokens("train")
    elif run.model.vocab_size is None:
        size = vocab or run.data.tokenizer.vocab_size
        run = run.model_copy(update={"model": run.model.model_copy(update={"vocab_size": size})})
    gpu = bool(local_gpus(os.environ))
    made = make_plan(run, world=world, gpu=gpu, train_tokens=tokens)
    here = not gpu and world <= available_cores()
    seconds = seconds_on_cpu(run, made, matrix_rate()) if here else None
    if as_json:
        values = {**dataclasses.asdict(made), "world": world, "expected_seconds": seconds}
        click.echo(json.dumps(values, indent=2))
    else:
        make_console().print(run_table(made, seconds))
