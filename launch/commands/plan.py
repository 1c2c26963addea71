"""`escala plan`: what a run costs and whether it fits, before anything starts."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.commands.options import json_option, set_option
from trainer.contract.errors import UserError
from trainer.contract.plain_json import to_json

if TYPE_CHECKING:
    from trainer.config.run import RunConfig


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
@click.option("--world", type=click.IntRange(min=1), default=1, show_default=True, help="Ranks of the run.")
@click.option("--vocab", type=click.IntRange(min=1), help="Vocabulary, where the data are not prepared yet.")
@click.option("--gpu", help="Rank every layout on this kind of GPU, such as H100, by step time.")
@click.option("--gpu-price", type=float, help="Price of one GPU for an hour, for the cost of each layout.")
@click.option("--verify", is_flag=True, help="With --gpu: dry-run the best layout here, with fake ranks and no data.")
@json_option
def plan(
    config: Path,
    assignments: tuple[str, ...],
    world: int,
    vocab: int | None,
    gpu: str | None,
    gpu_price: float | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Print the plan of the run CONFIG: parameters by part, FLOPs, batch, layout, memory of a rank, expected time.

    Without --gpu the plan is of GPUs where this machine has some, or the configuration asks for them with device: cuda
    or precision: fp8.

    With --gpu, print instead every layout (data x sequence x tensor x ZeRO x micro-batch x recomputation) on so many
    of these GPUs: memory, step time, tokens/s, MFU, hours and cost, best first, and why others do not fit. Nothing is
    built, downloaded or started.

    \b
    Examples:
      escala plan configs/run/tiny.yaml
      escala plan configs/run/7b.yaml --world 64 --set parallel.tensor=8
      escala plan configs/run/7b.yaml --world 64 --gpu H100-SXM --gpu-price 3
      escala plan configs/run/7b.yaml --world 1024 --gpu H100-SXM --verify
      escala plan configs/run/tiny.yaml --world 2 --json | jq .memory_bytes
    """
    from launch.show.console import make_console
    from trainer.config.load import load_run

    run, train_tokens = known_vocabulary(load_run(config, assignments), vocab)
    if verify and gpu is None:
        raise UserError("--verify checks a layout on a GPU: add --gpu NAME, such as --gpu H100")
    if gpu is not None:
        from launch.planner.layouts import layouts
        from launch.planner.table import layouts_table, verified_text
        from launch.planner.verify import verify as dry_run
        from trainer.plan.batch import plan_batch

        plan_batch(run.batch.tokens_per_step, run.model.context_length, 1, None)  # whatever the layout, it must hold
        found = layouts(run, world=world, gpu=gpu, price=gpu_price)
        verified = dry_run(run, found.best.layout, world) if verify else None
        if as_json:
            click.echo(to_json({**found.to_json(), "verified": verified}, indent=2))
        else:
            found.best  # noqa: B018  (raises, with the closest layout, where none fits)
            make_console().print(layouts_table(found))
            if verified is not None:
                click.echo(verified_text(verified))
        return
    print_plan(run, train_tokens, world, as_json)


def known_vocabulary(run: RunConfig, vocab: int | None) -> tuple[RunConfig, int | None]:
    """Return the run with a vocabulary, and the size of its training set where the data are prepared."""
    from launch.run.data_preparation import is_prepared
    from trainer.data.store.manifest import Manifest
    from trainer.plan.resolve import with_data

    if is_prepared(run.data):
        manifest = Manifest.open(run.data.directory)
        return with_data(run, manifest), manifest.tokens("train")
    if run.model.vocab_size is not None and vocab is None:
        return run, None
    pieces = vocab or run.data.tokenizer.vocab_size
    if pieces is None:  # a vocabulary of words
        raise UserError(
            f"data set {run.data.name!r} is not prepared, and how many words it has is only known then: prepare it, or "
            "give --vocab (or model.vocab_size)"
        )
    model = run.model.model_copy(update={"vocab_size": pieces})
    return run.model_copy(update={"model": model}), None


def _on_gpus(run: RunConfig) -> bool:
    """Return whether the ranks have GPUs: this machine's, or those that the configuration asks for."""
    from launch.cluster.this_machine import local_gpus

    if run.device == "auto":
        needs = run.precision == "fp8" or run.parallel.compile == "graphs"
        return needs or bool(local_gpus(os.environ))
    return run.device == "cuda"


def print_plan(run: RunConfig, train_tokens: int | None, world: int, as_json: bool) -> None:
    """Print the plan of one layout, with the expected time where this machine could run it."""
    from launch.cluster.this_machine import available_cores
    from launch.planner.expected import matrix_rate, seconds_on_cpu
    from launch.show.console import make_console
    from launch.show.plan_table import run_table
    from trainer.plan.plan import make_plan

    gpus = _on_gpus(run)
    made = make_plan(run, world=world, gpu=gpus, train_tokens=train_tokens)
    here = not gpus and world <= available_cores()
    seconds = seconds_on_cpu(run, made, matrix_rate(), ranks=world) if here else None
    if as_json:
        values = {**dataclasses.asdict(made), "world": world, "expected_seconds": seconds}
        click.echo(to_json(values, indent=2))
    else:
        make_console().print(run_table(made, seconds))
        if not gpus and not here:
            click.secho(
                f"note: planned for {world} CPU ranks, since this machine has no GPU and the configuration asks for "
                "none: add --gpu NAME for the layouts on GPUs, or --set device=cuda for the plan of this one there",
                fg="yellow",
                err=True,
            )
