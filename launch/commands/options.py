"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from launch.run.runs_root import default_runs
from launch.scaling.table.counting import DEFAULT_N, N_CONVENTIONS
from trainer.config.span import parse_count
from trainer.contract.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])


class Positive(click.ParamType):
    """A finite number above zero, such as a budget of 1e21."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"{value!r} is not a positive number.", param, ctx)
        return number


class Size(click.ParamType):
    """A number of parameters or tokens above zero: 1.3B, 400M or 2e9."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(parse_count(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        if number <= 0:
            self.fail(f"{value!r} is not above zero.", param, ctx)
        return number


def refuse_idle(names: Iterable[str], why: str) -> None:
    """Raise `UserError` where one of these parameters of the running command was given: `why` it has no effect."""
    context = click.get_current_context()
    flags = {p.name: p.opts[0] for p in context.command.params}
    given = [n for n in names if context.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    if given:
        raise UserError(f"{flags[given[0]]} has no effect {why}: leave it out")


set_option = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a setting, such as model.n_layers=4."
)
cluster_option = click.option(
    "--cluster", required=True, metavar="NAME", help="A file of configs/cluster, by name, or any YAML file."
)
family_option = click.option(
    "--family", metavar="NAME", help="Of a fit of families: the one to ask about; default: its reference."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_runs,
    show_default="$ESCALA_RUNS or ./runs",
    help="Directory under which runs and sweeps are kept.",
)

n_convention_option = click.option(
    "--n-convention",
    type=click.Choice(list(N_CONVENTIONS)),
    default=DEFAULT_N,
    show_default=True,
    help="How a ledger's parameters are counted.",
)
