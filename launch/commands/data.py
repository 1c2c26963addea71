"""`escala data`: prepare, inspect, verify, import and export token sets."""

from __future__ import annotations

import json
from pathlib import Path

import click

from launch.commands.options import json_option
from launch.groups import OrderedGroup

PATH = click.Path(path_type=Path)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, such as tokenizer.vocab_size=8192.",
)
split_option = click.option(
    "--split", default="train", show_default=True, help="train, held_out, or an extra set's name."
)


@click.group(cls=OrderedGroup)
def data() -> None:
    """Prepare token sets, look into them, and check them.

    \b
    CONFIG is the name of a file in configs/data, a YAML file with a data section, or a run's file.
    SET is such a configuration, or the directory of a prepared set.

    \b
    Examples:
      escala data prepare quickstart
      escala data inspect quickstart
      escala data verify data/quickstart
    """


@data.command(short_help="Train the tokenizer and write the shards.")
@click.argument("config")
@set_option
@click.option("--workers", type=click.IntRange(min=1), help="Encoding processes. Default: the cores of this machine.")
@click.option("--task", metavar="I/N", help="Do every N-th part only, from the I-th: for array jobs.")
@click.option("--extend", is_flag=True, help="Take in files that were added to the sources since the set was begun.")
@json_option
def prepare(
    config: str, assignments: tuple[str, ...], workers: int | None, task: str | None, extend: bool, as_json: bool
) -> None:
    """Train the tokenizer, encode the sources of CONFIG, and write its shards.

    Doing it again does nothing; after a failure it goes on with what is missing. The files of the sources are noted
    when the set is begun, and must stay as they are; --extend takes in added ones, and changed ones of which
    nothing was read yet, and keeps what is there.

    \b
    Examples:
      escala data prepare embedded
      escala data prepare configs/data/jsonl.yaml --set name=books-32k --set tokenizer.vocab_size=32768
      escala data prepare hub --task $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT     in each task of an array job
    """
    from launch.run.data_story import load_data, run_prepare
    from trainer.data.store.inspect import summary
    from trainer.data.store.manifest import Manifest

    section = load_data(config, assignments)
    run_prepare(section, workers, task, extend=extend)
    if as_json:
        click.echo(json.dumps({"directory": section.directory, **summary(Manifest.open(section.directory))}, indent=2))


@data.command(short_help="Show counts, the mixture, and decoded text.")
@click.argument("prepared", metavar="SET")
@set_option
@split_option
@click.option("--samples", type=click.IntRange(min=0), default=2, show_default=True, help="Decoded stretches to show.")
@click.option("--length", type=click.IntRange(min=1), default=96, show_default=True, help="Tokens of a stretch.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which stretches.")
@json_option
def inspect(
    prepared: str, assignments: tuple[str, ...], split: str, samples: int, length: int, seed: int, as_json: bool
) -> None:
    """Show documents, tokens and compression by split and source, the mixture, and decoded text.

    \b
    Examples:
      escala data inspect embedded
      escala data inspect data/books --split held_out --samples 5
      escala data inspect mixture --json | jq .splits.train.tokens
    """
    from launch.run.data_story import find_set, print_mixture, print_samples, print_summary
    from trainer.data.store.inspect import samples as decoded
    from trainer.data.store.inspect import summary
    from trainer.data.store.manifest import Manifest

    directory, section = find_set(prepared, assignments)
    values = summary(Manifest.open(directory))
    texts = decoded(directory, split, samples, length, seed) if samples else []
    if as_json:
        click.echo(json.dumps({"directory": str(directory), **values, "samples": texts}, indent=2))
        return
    print_summary(directory, values)
    print_mixture(section, values)
    print_samples(texts)


@data.command(short_help="Read everything and check every hash.")
@click.argument("prepared", metavar="SET")
@set_option
@json_option
def verify(prepared: str, assignments: tuple[str, ...], as_json: bool) -> None:
    """Read all of SET and check every hash. Names what is damaged; exit code 2 where anything is.

    \b
    Examples:
      escala data verify embedded
      escala data verify /scratch/data/web --json
    """
    from launch.run.data_story import find_set, verify_with_progress
    from trainer.contract.errors import UserError

    directory, _ = find_set(prepared, assignments)
    problems, checked = verify_with_progress(directory)
    if as_json:
        click.echo(json.dumps({"directory": str(directory), "bytes": checked, "problems": problems}, indent=2))
    if problems:
        raise UserError(f"{directory} has {len(problems)} problems:\n  " + "\n  ".join(problems))
    if not as_json:
        click.echo(f"{directory}: {checked / 1e6:.1f} MB of tokens are what was written")


@data.command("export", short_help="Write a split as .npy, .bin or Megatron's .idx.")
@click.argument("prepared", metavar="SET")
@click.argument("target", type=PATH)
@set_option
@split_option
def export_(prepared: str, target: Path, assignments: tuple[str, ...], split: str) -> None:
    """Write a split of SET as TARGET: .npy, .bin (raw tokens), or .idx (Megatron, its .bin beside it).

    \b
    Examples:
      escala data export embedded out/train.npy
      escala data export embedded out/train.idx
      escala data export embedded out/val.bin --split held_out
    """
    from launch.run.data_story import find_set
    from trainer.data.store.exchange import export_tokens

    directory, _ = find_set(prepared, assignments)
    tokens, dtype = export_tokens(directory, split, target)
    click.echo(f"{target}: {tokens} tokens of {split}, {dtype}")


@data.command("import", short_help="Make a set of token files from elsewhere.")
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option("--to", "target", type=PATH, required=True, help="Directory of the new set.")
@click.option("--tokenizer", type=PATH, required=True, help="Set or tokenizer directory with which they were written.")
@click.option("--held-out-fraction", type=click.FloatRange(0, 1, max_open=True), default=0.01, show_default=True)
@click.option(
    "--dtype", type=click.Choice(["uint16", "uint32"]), default="uint16", show_default=True, help="Of raw .bin."
)
def import_(files: tuple[Path, ...], target: Path, tokenizer: Path, held_out_fraction: float, dtype: str) -> None:
    """Make a set of token FILES: .npy, Megatron .bin with .idx, or raw .bin.

    \b
    Examples:
      escala data import out/train.npy --to data/imported --tokenizer data/embedded
      escala data import corpus_text_document.bin --to data/megatron --tokenizer data/embedded
    """
    from trainer.data.store.exchange import import_tokens

    manifest = import_tokens(
        files, target, tokenizer_directory=tokenizer, held_out_fraction=held_out_fraction, raw_dtype=dtype
    )
    click.echo(f"{target}: {manifest.tokens('train')} training tokens, {manifest.tokens('held_out')} held out")
    for tag, report in manifest.report.items():
        if added := report["ends_added"]:
            click.echo(f"{tag}: {added} documents had no end token, and were given one")
