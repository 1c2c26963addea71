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

from trainer.config.base import parse_section
from trainer.config.data import DataConfig
from trainer.config.load import parse_mapping, read_yaml
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_INTERRUPTED, EXIT_USER_ERROR
from trainer.contract.hiding import hide_in_tracebacks, without_secrets
from trainer.data.prepare.claim import claimed, refuse_other_set
from trainer.data.prepare.encode import Encoders, usable_cores
from trainer.data.prepare.part_writer import PartWriter
from trainer.data.prepare.parts import Part, dtype_for, finished
from trainer.data.prepare.progress import Progress
from trainer.data.prepare.publishing import list_parts, publish, summary
from trainer.data.prepare.set_tokenizer import ensure_tokenizer
from trainer.data.prepare.up_to_date import is_up_to_date
from trainer.data.source.input_list import settle_inputs
from trainer.data.source.sources import Source, expected_text
from trainer.data.store.manifest import FILE, Manifest
from trainer.data.tokenize.tokenizer import DIRECTORY, Tokenizer, check_tokenizer


def prepare(
    config: DataConfig,
    *,
    workers: int | None = None,
    task: tuple[int, int] = (0, 1),
    extend: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Prepare the set of a configuration and return its directory.

    `task` (i, n) does every n-th part only; whichever task finishes the last part completes the set. `extend` takes
    files in that were added to the sources since the set was begun, as new parts behind all others.
    Raises UserError for anything that the user can mend; what was finished stays and is not done again.
    """
    if "://" in config.root:
        raise UserError(f"data are prepared in a local directory, not in {config.root}; copy the finished set there")
    root, progress = Path(config.directory), progress or Progress()
    refuse_other_set(root, config)
    if (root / FILE).exists():
        begun = Manifest.open(root)
        check_tokenizer(root, begun.tokenizer_hash)
        if begun.complete and is_up_to_date(config, root, extend=extend, progress=progress):
            return root
    sources = {False: [Source(s) for s in config.sources], True: [Source(s) for s in config.held_out_sets]}
    tokenizer = _begin(config, root, [*sources[False], *sources[True]], extend, progress)
    mine = my_parts(list_parts(config, root), task)
    done = finished(root, mine)
    progress.total_bytes = expected_bytes(sources) if not done and task == (0, 1) else 0
    progress.start(parts_done=len(done), total_parts=len(mine))
    dtype = dtype_for(tokenizer.vocab_size)
    with Encoders(root / DIRECTORY, dtype, workers or usable_cores()) as encoders, progress:
        writer = PartWriter(config, root, encoders, dtype, progress)
        for part in mine:
            if part not in done:
                writer.write(part, sources[part.held_out_set][part.source])
                publish(config, tokenizer, root)
    progress.say(summary(config, publish(config, tokenizer, root), root, progress))
    return root


def _begin(config: DataConfig, root: Path, sources: list[Source], extend: bool, progress: Progress) -> Tokenizer:
    """Claim the directory, settle which files each part has, and return the tokenizer; all under one lock."""
    with claimed(root, config):
        inputs = settle_inputs(config, root, {s.config.tag: s.files for s in sources}, extend=extend)
        for source in sources:
            source.keep_to(inputs.parts_of(source.config.tag))
        if not (root / DIRECTORY).exists():  # while a mistake still leaves the directory free
            for source in sources:
                source.check()
        trained_on = sources[: len(config.sources)]
        try:
            return ensure_tokenizer(config, trained_on, root, progress)
        except UserError as error:
            if any(source.gave_text for source in trained_on) or not any(source.last.rows for source in trained_on):
                raise  # it is not what the sources hold that is wrong
            told = "; ".join(f"{source.config.tag}: {source.last.told()}" for source in trained_on)
            raise UserError(f"{error} ({told})") from None


def my_parts(parts: list[Part], task: tuple[int, int]) -> list[Part]:
    """Return every n-th part, after all held-out sets, whose documents each task must know."""
    held_out = [part for part in parts if part.held_out_set]
    return held_out + [part for part in parts if not part.held_out_set][task[0] :: task[1]]


def expected_bytes(sources: dict[bool, list[Source]]) -> int:
    """Return about how much text will be read, or 0 where it is not known."""
    every = [*sources[False], *sources[True]]
    sizes = [source.config.max_bytes or expected_text(source.config, source.files) for source in every]
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
    parser.add_argument("--extend", action="store_true", help="take in files that were added to the sources")
    arguments = parser.parse_args()
    hide_in_tracebacks()
    os.environ["USE_TORCH"] = "0"  # or `datasets` imports it: 160 MB of memory that nothing here needs
    try:
        config = read_config(arguments.config)
        prepare(config, workers=arguments.workers, task=parse_task(arguments.task), extend=arguments.extend)
    except UserError as error:
        print(without_secrets(f"error: {error}"), file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def read_config(path: Path) -> DataConfig:
    """Read a data section from YAML or JSON: the file itself, or its key `data`. Raises UserError."""
    try:
        values = parse_mapping(sys.stdin.buffer.read(), "standard input") if str(path) == "-" else read_yaml(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from None
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
