"""`escala checkpoint`: look into checkpoints, verify them, and turn them into other files."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from launch.commands.options import json_option
from launch.groups import OrderedGroup
from launch.run.rank_packages import need_rank_packages
from trainer.checkpoint.manifest import list_checkpoints, read_manifest, step_of
from trainer.checkpoint.retention import list_set_aside
from trainer.checkpoint.search import problem_with, root_of
from trainer.contract.errors import UserError


@click.group(cls=OrderedGroup)
def checkpoint() -> None:
    """Inspect, verify and convert checkpoints, and delete those that were set aside.

    \b
    Examples:
      escala checkpoint inspect runs/tiny
      escala checkpoint verify runs/tiny
      escala checkpoint convert runs/tiny model.safetensors
      escala checkpoint convert runs/tiny exported/ --to huggingface --dtype bf16
      escala checkpoint clean runs/tiny
    """


def _checkpoints(path: Path) -> list[Path]:
    """Return the checkpoints that a path means: itself, or all of a run directory, newest first."""
    if step_of(path) is not None and path.is_dir():
        return [path]
    found = list_checkpoints(root_of(path))
    if not found:
        raise UserError(f"{path} is no checkpoint and holds none")
    return found


@checkpoint.command(short_help="Say what a checkpoint or a run holds.")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Say what PATH holds, a checkpoint or a run: step, layout it was written on, model, parameters, files.

    \b
    Examples:
      escala checkpoint inspect runs/tiny
      escala checkpoint inspect runs/tiny --json | jq '.[0].step'
    """
    rows = [_describe(found) for found in _checkpoints(path)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        if "problem" in row:
            click.echo(f"{row['checkpoint']}  damaged: {row['problem']}")
            continue
        click.echo(
            f"{row['checkpoint']}  step {row['step']:,}  {row['parameters']:,} parameters  {row['bytes']:,} bytes"
        )
        click.echo(f"  written on {row['layout']} in {row['files']} files; optimizer {row['optimizer']}")
        click.echo("  " + "  ".join(f"{name} {value}" for name, value in row["model"].items() if value is not None))
    _tell_set_aside(path)


def _describe(path: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(path)
    except UserError as error:  # one that is damaged does not hide the others
        return {"checkpoint": str(path), "problem": str(error)}
    sizes = [math.prod(shape) for shape in manifest.parameters.values()]
    return {
        "checkpoint": str(path),
        "step": manifest.step,
        "layout": manifest.layout,
        "parameters": sum(sizes),
        "tensors": len(sizes),
        "files": len(manifest.files),
        "bytes": sum(file.bytes for file in manifest.files.values()),
        "optimizer": manifest.optimizer.get("name"),
        "model": manifest.architecture,
        "state": manifest.state,
    }


@checkpoint.command(short_help="Read every byte and compare the hashes.")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Read every byte of the checkpoints in PATH and compare the hashes. Exit code 2 if any is damaged.

    \b
    Examples:
      escala checkpoint verify runs/tiny
      escala checkpoint verify runs/tiny/checkpoints/step_000000049
    """
    problems = {str(found): problem_with(found) for found in _checkpoints(path)}
    if as_json:
        click.echo(json.dumps({name: [problem] if problem else [] for name, problem in problems.items()}, indent=2))
    else:
        for name, problem in problems.items():
            click.echo(f"{name}  {problem or 'sound'}")
        _tell_set_aside(path)
    damaged = [name for name, found in problems.items() if found]
    if damaged:
        raise UserError(
            f"{len(damaged)} of {len(problems)} checkpoints cannot be used; a run passes over damaged ones by itself"
        )


@checkpoint.command(short_help="Delete what a run set aside.")
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
def clean(path: Path, dry_run: bool) -> None:
    """Delete the checkpoints that the run in PATH set aside: damaged ones, and those of a course that it left.

    To use one again, move it back into checkpoints/ of a run under its name without the reason.

    \b
    Examples:
      escala checkpoint clean runs/tiny --dry-run
      escala checkpoint clean runs/tiny
    """
    found = list_set_aside(root_of(path))
    total = sum(_bytes_of(directory) for directory in found)
    for directory in found:
        if not dry_run:
            shutil.rmtree(directory)
        click.echo(f"{'would delete' if dry_run else 'deleted'} {directory}")
    click.echo(f"{len(found)} checkpoints set aside, {total:,} bytes")


def _bytes_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _tell_set_aside(path: Path) -> None:
    if found := list_set_aside(root_of(path)):
        click.echo(f"{len(found)} set aside in {found[0].parent}; delete them with: escala checkpoint clean {path}")


@checkpoint.command(short_help="Write another format, or read one to start from.")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to", type=click.Choice(["safetensors", "huggingface", "checkpoint"]), default="safetensors", show_default=True,
    help="One file, a Hugging Face directory, or (from such a directory) a checkpoint to warm-start from.",
)  # fmt: skip
@click.option("--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
def convert(source: Path, target: Path, to: str, dtype: str) -> None:
    """Convert SOURCE (a checkpoint, a run's newest, or a Hugging Face directory) to TARGET.

    \b
    Examples:
      escala checkpoint convert runs/tiny model.safetensors
      escala checkpoint convert runs/tiny exported/ --to huggingface --dtype bf16
      escala checkpoint convert exported/ start/ --to checkpoint
    """
    need_rank_packages()
    command = [
        sys.executable,
        "-m",
        "trainer.checkpoint.convert",
        str(source),
        str(target),
        "--to",
        to,
        "--dtype",
        dtype,
    ]
    sys.exit(subprocess.run(command).returncode)
