"""`escala sweep coordcheck`: do activations change alike at every width?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launch.commands.options import json_option, set_option
from trainer.contract.errors import EndedBadlyError, UserError
from trainer.contract.exit_codes import EXIT_USER_ERROR
from trainer.contract.plain_json import to_json

if TYPE_CHECKING:
    from launch.scaling.other.coordinates import Measured
    from trainer.config.run import RunConfig

TIMES = (1, 2, 4, 8, 16)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
@click.option(
    "--times", default=",".join(map(str, TIMES)), show_default=True, metavar="LIST", help="Widths over the base's."
)
@click.option("--steps", type=click.IntRange(min=1), default=4, show_default=True, help="Optimizer steps.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Models of each width.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw the changes into this file.")
@json_option
def coordcheck(
    config: Path, assignments: tuple[str, ...], times: str, steps: int, seeds: int, figure: Path | None, as_json: bool
) -> None:
    """Train a few steps of the run CONFIG at several widths, and say whether activations change alike.

    The first width is that of optim.base, with parametrization standard the model's own. Flat is right: then the best
    learning rate of the base is that of wider models too. Runs on this machine's processor, on drawn tokens, by AdamW.

    \b
    Examples:
      escala sweep coordcheck configs/run/tiny.yaml --set optim.lr=0.01
      escala sweep coordcheck configs/run/transfer.yaml --figure coordinates.png
      escala sweep coordcheck configs/run/transfer.yaml --times 1,2,4,8 --json | jq '.kinds[].slope'
    """
    from launch.run.rank_packages import need_rank_packages
    from launch.scaling.other.coordinates import slopes
    from launch.scaling.report.coordinates_figure import draw
    from trainer.config.load import load_run

    run = load_run(config, assignments)
    if run.optim.name != "adamw":
        raise UserError(f"optim.name is {run.optim.name}, and the check trains with AdamW: --set optim.name=adamw")
    runs = [_at_width(run, factor) for factor in _factors(times)]
    need_rank_packages()
    rows = _measure(runs, steps, seeds, _rate(run))
    found = slopes(rows)
    if figure is not None:
        draw(found, f"parametrization {run.optim.parametrization}, {steps} steps", figure)
    if as_json:
        kinds = [{**vars(one), "verdict": one.verdict} for one in found]
        click.echo(to_json({"parametrization": run.optim.parametrization, "kinds": kinds, "rows": rows}, indent=2))
        return
    click.echo(f"change of activations in {steps} steps with {run.optim.parametrization}, power of the width (90 %)")
    for one in found:
        sizes = "  ".join(f"{size:.3g}" for size in one.sizes.values())
        click.echo(f"{one.kind:<10} {one.slope:+.3f} [{one.low:+.3f}, {one.high:+.3f}]  {one.verdict:<11}  {sizes}")


def _factors(times: str) -> list[float]:
    """Return the widths over the base's. Raises UserError for what is no list of three numbers."""
    try:
        factors = [float(part) for part in times.split(",")]
    except ValueError:
        factors = []
    if len(set(factors)) < 3 or not all(0 < factor < float("inf") for factor in factors):
        raise UserError(f"--times {times} is not three or more numbers above 0, such as 1,2,4: a slope needs so many")
    return factors


def _at_width(run: RunConfig, factor: float) -> dict[str, Any]:
    """Return the run at a width, as values. Raises UserError where the model cannot have it."""
    from trainer.config.load import run_from_values

    model = run.model.at_width(factor / run.model.widened)
    values: dict[str, Any] = run.model_dump(mode="json")
    values["model"] = model.model_dump(mode="json", exclude={"size", "transfer"})
    run_from_values(values, f"at {factor:g} times the width")
    return values


def _rate(run: RunConfig) -> float:
    """Return the peak rate of the run, which all widths are given."""
    from trainer.plan.plan import make_plan

    model = run.model if run.model.vocab_size else run.model.model_copy(update={"vocab_size": 256})
    return make_plan(run.model_copy(update={"model": model}), world=1).lr


def _measure(runs: list[dict[str, Any]], steps: int, seeds: int, lr: float) -> list[Measured]:
    """Have each width trained; what has been done is told on the way."""
    request = {"runs": runs, "steps": steps, "seeds": seeds, "lr": lr}
    command = [sys.executable, "-m", "trainer.optim.coordinate_check"]
    rows: list[Measured] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        for line in process.stdout:
            rows.append(json.loads(line))
            click.echo(f"width {rows[-1]['d_model']}, seed {rows[-1]['seed']}", err=True)
    if process.returncode == EXIT_USER_ERROR:
        sys.exit(EXIT_USER_ERROR)
    if process.returncode:
        raise EndedBadlyError(f"the check ended with exit code {process.returncode}", process.returncode)
    return rows
