"""`escala sample`: continue prompts with a trained model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from launch.commands.options import json_option, runs_option
from launch.commands.settings import flag, settings_options
from trainer.config.decoding import COMMON, DECODERS, DecodingConfig
from trainer.contract.errors import UserError


def heeding(name: str) -> str:
    """Return the decoders that heed a setting, where these are not all."""
    found = [decoder for decoder, entry in DECODERS.items() if name in entry.uses]
    return "" if name in COMMON else f" [{', '.join(found)}]"


@click.command()
@click.argument("run")
@click.option("--prompt", "given", multiple=True, help="Text to continue; may be repeated. Default: a document begins.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="One prompt a line; - is standard input.",
)
@settings_options(DecodingConfig, {"decoder": list(DECODERS)}, heeding)
@click.option("--compare", is_flag=True, help="Show one prompt under every decoder, and which text is most probable.")
@runs_option
@json_option
def sample(
    run: str, given: tuple[str, ...], prompts: Path | None, compare: bool, runs: Path, as_json: bool, **settings: Any
) -> None:
    """Continue prompts with the newest checkpoint of RUN, a directory or a name, of whatever family and layout.

    Text comes as it is produced; its log-probability under the model follows. Ends with the document, a stop string, or
    --tokens. Beyond the model's context its later half is read again as a beginning.

    \b
    Examples:
      escala sample tiny --prompt 'def '
      escala sample runs/tiny --count 3 --tokens 100 --top-p 0.9
      escala sample runs/tiny --prompt 'import' --decoder greedy --stop $'\\n' --json
      escala sample runs/tiny --prompt 'import' --decoder beam --width 8 --length-alpha 1 --count 3
      escala sample runs/tiny --prompts prompts.txt --decoder best_of --draws 16
      escala sample runs/tiny --prompt 'The ' --tokens 20 --compare
    """
    from launch.run.rank_packages import need_rank_packages
    from launch.watch.find_runs import find_run

    wanted = {name: value for name, value in settings.items() if value not in (None, ())}
    if compare and (idle := set(wanted) - {"tokens", "seed"}):
        raise UserError(
            f"{flag(min(idle))} has no effect with --compare, which goes through all decoders: leave it out"
        )
    texts = [*given, *(_lines(prompts) if prompts else [])] or [""]
    need_rank_packages()
    found = find_run(runs, run)
    request = {"run": str(found), "prompts": texts, "settings": wanted, "compare": compare, "json": as_json}
    command = [sys.executable, "-m", "trainer.decoding.sample"]
    sys.exit(subprocess.run(command, input=json.dumps(request).encode()).returncode)


def _lines(file: Path) -> list[str]:
    """Return the prompts of a file. Raises UserError for one that is not text, or empty."""
    content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 at byte {error.start}: convert it") from None
    if not lines:
        raise UserError(f"{file} has no prompts: write one a line")
    return lines
