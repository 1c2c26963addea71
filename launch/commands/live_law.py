"""`escala forecast --curve` and `--final`: the loss that is expected at each step, and where a run will end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from launch.scaling.live.final import ends, final_forecast
from launch.scaling.live.ledger import finished_runs
from launch.scaling.live.make import expected_curve
from launch.scaling.live.runs import kind_of
from launch.scaling.questions.next_run import counted
from launch.scaling.questions.saved_fit import load_fit
from launch.scaling.report.model import interval
from trainer.config.load import load_run, load_written
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.expected import BAND, ExpectedCurve
from trainer.contract.leaving import OTHERS, Follower
from trainer.contract.plain_text import plain
from trainer.contract.run_dir import RunDir
from trainer.plan.length import tokens_before, total_steps

SHOWN = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)  # shares of a run that are printed


def tell_curve(
    config: Path, assignments: tuple[str, ...], finished: Path | None, fit: Path | None, out: Path, as_json: bool
) -> None:
    """Write the expected curve of a run that has not started, and print some of its points. Raises `UserError`."""
    run = load_run(config, assignments)
    curve = _curve_of(run, finished, fit)
    curve.save(out)
    if curve.other_rate:
        click.secho(plain(f"warning: {OTHERS}: {curve.other_rate}"), fg="yellow", err=True)
    if as_json:
        click.echo(out.read_text(encoding="utf-8"), nl=False)
        return
    click.echo(
        f"expected loss of {run.name}, nats per token, 95 % of its points; from {len(curve.cells)} finished runs"
    )
    follower = Follower(curve)
    for step in dict.fromkeys(max(1, round(share * curve.total_steps)) for share in SHOWN):
        mean, modes, noise = follower.at(step)
        shown = interval(*ends(mean, math.sqrt(float(modes @ modes) + noise**2)), ".4f")
        click.echo(f"  step {step:>7}  {tokens_before(run, step):>15,} tokens  {math.exp(mean):.4f}  {shown}")
    mean, sd = follower.final()
    click.echo(f"  {curve.eval_set} at the end: {math.exp(mean):.4f}  {interval(*ends(mean, sd), '.4f')}")
    click.echo(f"written to {out}: escala train {config} --expected {out}")


def tell_final(run: Path, finished: Path | None, fit: Path | None, as_json: bool) -> None:
    """Print the forecast of the final loss of a run that is under way. Raises `UserError`."""
    run_dir = RunDir(run)
    if not run_dir.config.is_file():
        raise UserError(f"{run} is no run: it has no config.yaml")
    config = load_written(run_dir.config)
    if finished is None and not run_dir.expected.exists():
        raise UserError(
            f"{run} has no expected curve to start from: give the finished runs of its ladder with --from LEDGER"
        )
    curve = ExpectedCurve.load(run_dir.expected) if finished is None else _curve_of(config, finished, fit)
    found = final_forecast(run, curve)
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    click.echo(
        f"{found.run}: after step {found.step} of {found.steps} ({found.step / found.steps:.0%}) the final loss on "
        f"{found.eval_set} is forecast as {found.loss:.4f} nats, 95 % {interval(*found.interval, '.4f')}; perplexity "
        f"{found.perplexity:.2f}"
    )
    click.echo(f"before its first step: {found.before:.4f}, 95 % {interval(*found.before_interval, '.4f')}")
    if found.left_at is not None:
        click.secho(
            f"warning: it left its expected band at step {found.left_at}: it is no run of this kind, and the forecast "
            "says where one that is would end", fg="yellow", err=True,
        )  # fmt: skip


def _curve_of(run: RunConfig, finished: Path | None, fit: Path | None) -> ExpectedCurve:
    """Return the expected curve of a run, from the finished ones; a fit says the level at the end in their place."""
    if finished is None:
        raise UserError("--from is missing: the ledger of the finished runs that the curve is made from")
    runs, eval_set = finished_runs(finished)
    wanted = kind_of(run, run.name)
    every = run.tracking.log_every.steps(tokens_per_step=wanted.tokens_per_step, total_steps=total_steps(run))
    law = None if fit is None else _law(fit, run, wanted.D)
    return expected_curve(runs, wanted, eval_set=eval_set, logged_every=max(every, 1), law=law)


def _law(path: Path, run: RunConfig, tokens: float) -> tuple[float, float]:
    """Return the log of the final loss that a saved fit foretells, and its standard deviation."""
    fit = load_fit(path)
    vocabulary = run.model.vocab_size or run.data.tokenizer.vocab_size
    if vocabulary is None:
        raise UserError(f"{path} counts the vocabulary, and that of {run.name} is not known: set model.vocab_size")
    N = float(counted(run.model.model_copy(update={"vocab_size": vocabulary}), fit.convention))
    known = {"N": N, "D": tokens, "C": 6 * N * tokens}
    loss, between = fit.new_run(**known)
    if between is None:
        raise UserError(f"{path} has no replicates, so it says no interval: fit with a bootstrap")
    return math.log(loss), math.log(between[1] / between[0]) / (2 * BAND)
