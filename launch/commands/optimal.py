"""`escala optimal`: what to train with a budget, according to a fit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import yaml

from launch.commands.options import Positive, Size, family_option, json_option, refuse_idle
from launch.planner.layouts import layouts
from launch.scaling.questions.next_run import (
    Decision,
    Estimate,
    concrete_model,
    counted,
    decide,
    flops_for_loss,
    flops_of_cluster,
    mixers_of,
    run_yaml,
)
from launch.scaling.questions.saved_fit import SavedFit, load_fit
from launch.scaling.report.decisions import counted_ends, ends
from launch.scaling.report.model import interval
from launch.scaling.table.counting import counting_text
from launch.show.text import count, flops_text
from launch.sweep.design.pending import add_cell, shared_run
from trainer.config.load import run_from_values
from trainer.config.model import ModelConfig
from trainer.contract.errors import UserError
from trainer.contract.plain_text import plain
from trainer.models.mixers.registry import find_mixer
from trainer.plan.counting import count_flops, count_parameters
from trainer.plan.gpus import NAMES, find_gpu

EPILOG = """\b
Examples:
  escala optimal --fit fit.json --flops 1e21
  escala optimal --fit fit.json --gpus 64 --days 3 --mfu 0.4
  escala optimal --fit fit.json --loss 2.2
  escala optimal --fit fit.json --flops 1e21 --served-tokens 1e12 --run-yaml next.yaml
  escala optimal --fit fit.json --flops 1.5e13 --sweep ladder.yaml
"""
OTHER_MFU = 0.20  # of the given --mfu: as far off as most of the planner's estimates are, see docs/benchmarks
FAR_OFF = 0.25  # of N*: the nearest model is then another run than the fit asked for


@click.command(epilog=EPILOG)
@click.option("--fit", "fit_path", required=True, type=click.Path(path_type=Path), help="Output of escala fit --json.")
@family_option
@click.option("--flops", type=Positive(), help="Training budget in FLOPs.")
@click.option("--gpus", type=click.IntRange(min=1), help="Number of accelerators; with --days.")
@click.option("--days", type=Positive(), help="Days of training; with --gpus.")
@click.option("--mfu", default=0.4, show_default=True, help="Share of the peak that training reaches.")
@click.option("--gpu", default="H100", show_default=True, help=f"One of {NAMES}.")
@click.option("--loss", type=Positive(), help="The loss to reach, in nats per token: finds the budget.")
@click.option("--served-tokens", type=Size(), help="Tokens to be served later; the budget pays for them too.")
@click.option(
    "--vocab-size", type=click.IntRange(min=1), default=32_768, show_default=True, help="Of the concrete model."
)
@click.option(
    "--context-length", type=click.IntRange(min=1), default=2_048, show_default=True, help="Of the concrete model."
)
@click.option(
    "--tokens-per-step",
    type=click.IntRange(min=1),
    default=524_288,
    show_default=True,
    help="Global batch of the run YAML.",
)
@click.option("--mixer", default="attention", show_default=True, help="Of the concrete model, see escala keys model.")
@click.option("--data", default="embedded", show_default=True, help="Data section of the run YAML.")
@click.option("--run-yaml", "yaml_path", type=click.Path(path_type=Path), help="Write the run's YAML to this file.")
@click.option(
    "--sweep",
    "sweep_path",
    type=click.Path(path_type=Path),
    help="Add the run to this sweep file; model, batch and data are then those of its cells.",
)
@json_option
def optimal(
    fit_path: Path,
    family: str | None,
    flops: float | None,
    gpus: int | None,
    days: float | None,
    mfu: float,
    gpu: str,
    loss: float | None,
    served_tokens: float | None,
    vocab_size: int,
    context_length: int,
    tokens_per_step: int,
    mixer: str,
    data: str,
    yaml_path: Path | None,
    sweep_path: Path | None,
    as_json: bool,
) -> None:
    """Say which model to train on how many tokens, with intervals, and write it as a run or a cell of a sweep."""
    fit = load_fit(fit_path, family=family)
    mixers = {} if mixer == "attention" else {"mixer": find_mixer(mixer).name}
    if gpus is None:
        refuse_idle(["gpu", "mfu"], "without --gpus")
    if sweep_path is not None:
        refuse_idle(
            ["vocab_size", "context_length", "tokens_per_step", "data", "mixer"], "with --sweep, whose cells say it"
        )
        shared = shared_run(sweep_path)
        vocab_size, context_length = shared.model.vocab_rows, shared.model.context_length
        mixers = mixers_of(shared.model)
        tokens_per_step, data = shared.batch.tokens_per_step, shared.data.name
    budget = _budget(fit, flops, gpus, days, mfu, gpu, loss)
    decision = decide(fit, budget, served_tokens=served_tokens or 0.0)
    if decision.verdict is not None and decision.verdict.status == "refused" and sweep_path is None:
        raise UserError(
            f"{fit_path} says nothing of {flops_text(budget, 3)} FLOPs: {'; '.join(decision.verdict.reasons)}. Ask for "
            "a budget nearer to its runs, or add the run to the ladder to learn from it (--sweep)"
        )
    config = concrete_model(decision.N.value, fit.convention, vocab_size, context_length, mixers)
    run = run_yaml(decision, config, data, tokens_per_step)
    text = yaml.safe_dump(run, sort_keys=False)
    if yaml_path is not None:
        yaml_path.write_text(text, encoding="utf-8")
    if sweep_path is not None:
        add_cell(sweep_path, {"model.size": run["model"]["size"], "tokens": run["tokens"]})
    warnings = [*_far_off(decision, fit, config), *_other_mfu(config, run, gpus, mfu, gpu)]
    if as_json:
        click.echo(json.dumps(_answer(decision, fit, config, run, warnings)))
        return
    _print(decision, fit)
    _print_model(decision, fit, config, run, warnings)
    if sweep_path is None:
        click.echo(f"\n{text}")
        return
    click.echo(f"added to {sweep_path}: model.size {run['model']['size']}, {count(run['tokens'])} tokens")
    click.echo(f"next: escala forecast --fit {fit_path} --sweep {sweep_path}, then escala sweep run {sweep_path}")


def _answer(
    decision: Decision, fit: SavedFit, config: ModelConfig, run: dict[str, Any], warnings: list[str]
) -> dict[str, Any]:
    """Return what --json prints."""
    estimates = {
        "N": decision.N,
        "D": decision.D,
        "tokens_per_parameter": decision.tokens_per_parameter,
        "loss": decision.loss,
    }
    if decision.wasted is not None:
        estimates["wasted_share"] = decision.wasted
    shape = config.shape()
    parameters = count_parameters(config).by_part()
    return {
        "flops": decision.flops,
        **{name: e.value for name, e in estimates.items()},
        "intervals": {name: list(e.interval) for name, e in estimates.items() if e.interval},
        "model": {**shape, "N": counted(config, fit.convention), "parameters": parameters},
        "run": run,
        "run_flops_exact": _exact_flops(config, run),
        "status": fit.status if decision.verdict is None else decision.verdict.status,
        "parts": [asdict(part) for part in decision.parts],
        "warnings": [*_grounds(decision), *decision.warnings, *warnings],
    }


def _exact_flops(config: ModelConfig, run: dict[str, Any]) -> float:
    return float(count_flops(config).total * run["tokens"])


def _print_model(
    decision: Decision, fit: SavedFit, config: ModelConfig, run: dict[str, Any], warnings: list[str]
) -> None:
    """Say which model of the ladder is nearest to N*, what its run costs, and what to know of it."""
    N, exact = counted(config, fit.convention), _exact_flops(config, run)
    counting = counting_text(fit.convention)
    shape = ", ".join(f"{key} {value}" for key, value in config.shape().items())
    click.echo(
        f"\nThe model of the ladder nearest to N*: {shape}; "
        f"N = {count(N)} ({N / decision.N.value - 1:+.1%} from N*{counting and f'; {counting}'}), "
        f"{count(count_parameters(config).total)} parameters in all\n"
        f"Its run costs {flops_text(exact, 3)} FLOPs, counted exactly with attention and head: "
        f"{exact / (6 * N * run['tokens']):.2f} times 6 N D"
    )
    for warning in warnings:
        click.secho(plain(f"warning: {warning}"), fg="yellow", err=True)


def _far_off(decision: Decision, fit: SavedFit, config: ModelConfig) -> list[str]:
    if abs(counted(config, fit.convention) / decision.N.value - 1) <= FAR_OFF:
        return []
    return [
        f"with a vocabulary of {config.vocab_size} no model of the ladder is near N*: give the --vocab-size, "
        "--context-length and --tokens-per-step of your runs, or --sweep to take them from its cells"
    ]


def _other_mfu(config: ModelConfig, run: dict[str, Any], gpus: int | None, mfu: float, gpu: str) -> list[str]:
    """Return a warning where the planner expects another utilisation of this run than the budget was counted with."""
    if gpus is None:
        return []
    batch = {"batch": run["batch"], "tokens": run["tokens"]}
    planned = run_from_values({"model": config.model_dump(mode="json"), "data": {}, **batch}, "the run")
    try:
        expected = layouts(planned, world=gpus, gpu=gpu).best.mfu
    except UserError as error:
        return [f"the planner finds no layout for this run on the GPUs of the budget: {error}"]
    if abs(expected / mfu - 1) <= OTHER_MFU:
        return []
    return [
        f"the budget counts on {mfu:.0%} of the peak, the planner expects {expected:.0%} of this run on {gpus} x "
        f"{find_gpu(gpu).name}: try --mfu {expected:.2f}, or another --tokens-per-step"
    ]


def _budget(
    fit: SavedFit,
    flops: float | None,
    gpus: int | None,
    days: float | None,
    mfu: float,
    gpu: str,
    loss: float | None,
) -> float:
    given = [name for name, value in (("--flops", flops), ("--gpus", gpus), ("--loss", loss)) if value is not None]
    if len(given) != 1:
        raise UserError(
            f"give the budget once: --flops, --gpus with --days, or --loss (given: {', '.join(given) or 'none'})"
        )
    if (gpus is None) != (days is None):
        raise UserError("--gpus and --days belong together: a budget is both")
    if loss is not None:
        return flops_for_loss(fit, loss)
    if gpus is not None and days is not None:
        return flops_of_cluster(gpus, days, mfu, gpu)
    assert flops is not None, "one budget was given"
    return flops


def _print(decision: Decision, fit: SavedFit) -> None:
    counting = f"; {counting_text(fit.convention)}".removesuffix("; ")
    grade = fit.status if decision.verdict is None else decision.verdict.status
    click.echo(f"Budget {flops_text(decision.flops, 3)} FLOPs, law {fit.law.name}, {grade}{counting}")
    rows: list[tuple[str, Estimate, str]] = [
        ("N*, parameters", decision.N, "count"),
        ("D*, tokens", decision.D, "count"),
        ("D*/N*", decision.tokens_per_parameter, ".1f"),
        ("loss, nats", decision.loss, ".4f"),
    ]
    for name, estimate, style in rows:
        click.echo(f"  {name:<15} {_shown(estimate.value, style):>9}{_interval(estimate, style)}")
    if decision.wasted is not None and decision.wasted.interval is not None:
        most = decision.wasted.interval[1]
        click.echo(
            f"  acting on this fit wastes {decision.wasted.value:.1%} of the budget (median), 95 %: up to {most:.1%}"
        )
    for part in decision.parts:
        click.echo(f"  {part.what}: N* {counted_ends(part.N)}, loss {interval(*part.loss, '.4f')}")
    for warning in [*_grounds(decision), *decision.warnings]:
        click.secho(plain(f"warning: {warning}"), fg="yellow", err=True)


def _grounds(decision: Decision) -> list[str]:
    """Return why the decision is weak, or refused."""
    verdict = decision.verdict
    return [] if verdict is None else [f"{verdict.status}: {reason}" for reason in verdict.reasons]


def _interval(estimate: Estimate, style: str) -> str:
    if estimate.interval is None:
        return ""
    return f"   95 % {counted_ends(estimate.interval)}" if style == "count" else f"   95 %{ends(estimate, style)}"


def _shown(value: float, style: str) -> str:
    return count(value) if style == "count" else f"{value:{style}}"
