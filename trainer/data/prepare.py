"""Prepare a token set: sources -> tokenizer -> shards -> manifest.

    python -m trainer.data.prepare --config configs/data/embedded.yaml
    python -m trainer.data.prepare --config web.yaml --task 3/16     one of 16 processes, for instance of an array job

Preparing again with the same configuration does nothing; after a failure it goes on with the parts that are missing.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import yaml
from filelock import FileLock

from trainer.config.base import parse_section
from trainer.config.data import DataConfig
from trainer.data.encode import Encoders, usable_cores
from trainer.data.manifest import FILE, Manifest
from trainer.data.part_writer import PartWriter
from trainer.data.parts import Part, claimed, dtype_for, finished, in_order, refuse_other_set
from trainer.data.progress import Progress
from trainer.data.publishing import publish, summary
from trainer.data.set_tokenizer import ensure_tokenizer
from trainer.data.sources import Source, local_bytes
from trainer.data.tokenizer import DIRECTORY, check_tokenizer
from trainer.errors import USER_ERROR_EXIT_CODE, UserError


def prepare(
    config: DataConfig, *, workers: int | None = None, task: tuple[int, int] = (0, 1), progress: Progress | None = None
) -> Path:
    """Prepare the set of a configuration and return its directory.

    `task` (i, n) does every n-th part only; whichever task finishes the last part completes the set.
    Raises UserError for anything that the user can mend; what was finished stays and is not done again.
    """
    if "://" in config.root:
        raise UserError(f"data are prepared in a local directory, not in {config.root}; copy the finished set there")
    root, progress = Path(config.directory), progress or Progress()
    refuse_other_set(root, config)
    if (root / FILE).exists():
        begun = Manifest.open(root)
        check_tokenizer(root, begun.tokenizer_hash)
        if begun.complete:
            progress.say(f"{config.name}: already prepared in {root}")
            return root
    sources = {False: [Source(s) for s in config.sources], True: [Source(s) for s in config.held_out_sets]}
    parts = list_parts(config, sources)
    with claimed(root, config), FileLock(root / "parts" / "set.lock"):
        if not (root / DIRECTORY).exists():  # while a mistake still leaves the directory free
            for source in (*sources[False], *sources[True]):
                source.check()
        tokenizer = ensure_tokenizer(config, sources[False], root, progress)
    done = finished(root, parts)
    mine = my_parts(parts, task)
    progress.total_bytes = expected_bytes(config) if not done and task == (0, 1) else 0
    progress.start(parts_done=sum(part in done for part in mine), total_parts=len(mine))
    dtype = dtype_for(tokenizer.vocab_size)
    with Encoders(root / DIRECTORY, dtype, workers or usable_cores()) as encoders:
        writer = PartWriter(config, root, encoders, dtype, progress)
        for part in mine:
            if part not in done:
                writer.write(part, sources[part.held_out_set][part.source])
                publish(config, parts, tokenizer, root)
    progress.say(summary(config, publish(config, parts, tokenizer, root), root, progress))
    return root


def my_parts(parts: list[Part], task: tuple[int, int]) -> list[Part]:
    """Return every n-th part, after all held-out sets, whose documents each task must know."""
    held_out = [part for part in parts if part.held_out_set]
    return held_out + [part for part in parts if not part.held_out_set][task[0] :: task[1]]


def list_parts(config: DataConfig, sources: dict[bool, list[Source]]) -> list[Part]:
    """Return all parts of all sources in their final order."""
    configs = {False: config.sources, True: config.held_out_sets}
    return in_order(
        [
            Part(number, configs[kind][number].tag, index, source.num_parts, kind)
            for kind, group in sources.items()
            for number, source in enumerate(group)
            for index in range(source.num_parts)
        ]
    )


def expected_bytes(config: DataConfig) -> int:
    """Return about how much text will be read, or 0 where it is not known."""
    sizes = [source.max_bytes or local_bytes(source) for source in (*config.sources, *config.held_out_sets)]
    return sum(sizes) if all(sizes) else 0


def main() -> None:
    """Run from the command line; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m trainer.data.prepare", description="Prepare a token set.")
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="a data section, or a run with one, in YAML or JSON; - reads standard input",
    )
    parser.add_argument("--workers", type=int, help="encoding processes (default: the cores of this process)")
    parser.add_argument("--task", default="0/1", help="i/n: do every n-th part only, beginning with i")
    arguments = parser.parse_args()
    os.environ["USE_TORCH"] = "0"  # or `datasets` imports it: 160 MB of memory that nothing here needs
    try:
        config = read_config(arguments.config)
        prepare(config, workers=arguments.workers, task=parse_task(arguments.task))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_EXIT_CODE)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def read_config(path: Path) -> DataConfig:
    """Read a data section from YAML or JSON: the file itself, or its key `data`."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no data section")
    inner = values.get("data", values)
    return parse_section(DataConfig, inner, str(path))


def parse_task(text: str) -> tuple[int, int]:
    """Read `3/16`."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"--task is i/n with i below n, such as 0/16 to 15/16, not {text!r}")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    main()
