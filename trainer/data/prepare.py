"""Prepare a token set: sources -> tokenizer -> shards -> manifest.

    python -m trainer.data.prepare --config configs/data/embedded.yaml
    python -m trainer.data.prepare --config web.yaml --task 3/16     one of 16 processes, for instance of an array job

Preparing again with the same configuration does nothing; after a failure it goes on with the parts that are missing.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import yaml
from filelock import FileLock

from trainer.config.base import parse_section
from trainer.config.data import HELD_OUT, TRAIN, DataConfig
from trainer.data.encode import Chunk, Encoders, SplitRule, document_digest, usable_cores
from trainer.data.manifest import FILE, Manifest
from trainer.data.parts import Part, PartRecord, build_manifest, claim_directory, dtype_for, finished, in_order
from trainer.data.progress import Progress, duration
from trainer.data.shard_writer import ShardWriter
from trainer.data.sources import Source, local_bytes
from trainer.data.tokenizer import DIRECTORY, META, Tokenizer, load_tokenizer
from trainer.data.tokenizer_training import make_tokenizer
from trainer.errors import USER_ERROR_EXIT_CODE, UserError
from trainer.run_dir import write_atomically

CHUNK_BYTES = 1 << 18
SAMPLED_PARTS = 16


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
    claim_directory(root, config)
    if (root / FILE).exists() and Manifest.open(root).complete:
        progress.say(f"{config.name}: already prepared in {root}")
        return root
    sources = {False: [Source(s) for s in config.sources], True: [Source(s) for s in config.held_out_sets]}
    parts = list_parts(config, sources)
    with FileLock(root / "parts" / "set.lock"):
        tokenizer = ensure_tokenizer(config, sources[False], root, progress)
    done = finished(root, parts)
    mine = my_parts(parts, task)
    progress.total_bytes = expected_bytes(config) if not done and task == (0, 1) else 0
    progress.start(parts_done=sum(part in done for part in mine), total_parts=len(mine))
    with Encoders(root / DIRECTORY, dtype_for(tokenizer.vocab_size), workers or usable_cores()) as encoders:
        for part in mine:
            if part not in done:
                write_part(config, sources[part.held_out_set][part.source], part, root, encoders, tokenizer, progress)
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


def ensure_tokenizer(config: DataConfig, sources: list[Source], root: Path, progress: Progress) -> Tokenizer:
    """Return the set's tokenizer; the first process to come here makes it."""
    directory = root / DIRECTORY
    if (directory / META).exists():
        return load_tokenizer(directory)
    trained = config.tokenizer.kind in ("bpe", "unigram")
    if trained:
        progress.say(
            f"{config.name}: training a {config.tokenizer.kind} tokenizer of {config.tokenizer.vocab_size} pieces "
            f"on up to {config.tokenizer.sample_bytes / 1e6:g} MB"
        )
    tokenizer = make_tokenizer(config.tokenizer, sample(config, sources), directory)
    progress.say(f"{config.name}: tokenizer {tokenizer.hash}, {tokenizer.vocab_size} pieces")
    return tokenizer


def sample(config: DataConfig, sources: list[Source]) -> Iterator[str]:
    """Yield training documents of all sources by their weights, from parts spread evenly, up to `sample_bytes`."""
    rule = SplitRule(config.held_out_fraction)
    weights = [source.weight or 1.0 for source in config.sources]
    for source, weight in zip(sources, weights, strict=True):
        num_parts = min(source.num_parts, SAMPLED_PARTS)
        budget = int(config.tokenizer.sample_bytes * weight / sum(weights) / num_parts)
        for k in range(num_parts):
            left = budget
            cap = source.part_budget()
            for text in source.documents(k * source.num_parts // num_parts, cap):
                raw = text.encode("utf-8", errors="replace")
                if rule(raw) != TRAIN:
                    continue
                yield raw[:left].decode(errors="ignore")
                left -= len(raw)
                if left <= 0:
                    break


def write_part(
    config: DataConfig,
    source: Source,
    part: Part,
    root: Path,
    encoders: Encoders,
    tokenizer: Tokenizer,
    progress: Progress,
) -> None:
    """Encode one part into shards and record it. What an earlier attempt left unfinished is written over."""
    with FileLock(root / "parts" / f"{part.name}.lock"):
        if not part.record(root).exists():
            record = _encode_part(config, source, part, root, encoders, tokenizer, progress)
            write_atomically(part.record(root), record.model_dump_json(indent=1) + "\n")
    progress.parts += 1


def _encode_part(
    config: DataConfig,
    source: Source,
    part: Part,
    root: Path,
    encoders: Encoders,
    tokenizer: Tokenizer,
    progress: Progress,
) -> PartRecord:
    itemsize = 2 if dtype_for(tokenizer.vocab_size) == "uint16" else 4
    held_out = part.tag if part.held_out_set else HELD_OUT
    train_writer, held_out_writer = (
        ShardWriter(root, f"{split}/{part.name}", part.tag, itemsize, config.shard_tokens)
        for split in (TRAIN, held_out)
    )
    rule = SplitRule(1.0) if part.held_out_set else SplitRule(config.held_out_fraction, known_digests(config, root))
    text_hash, digests, documents, duplicates = hashlib.sha256(), bytearray(), 0, 0
    try:
        for texts, chunk in encoders.encode(chunks(source.documents(part.index, source.part_budget())), rule):
            for text in texts:
                raw = text.encode("utf-8", errors="replace")
                text_hash.update(raw)
                digests += document_digest(raw) if part.held_out_set else b""
            train_writer.append(chunk.train)
            held_out_writer.append(chunk.held_out)
            documents, duplicates = documents + len(texts), duplicates + chunk.duplicates
            progress.advance(_text_bytes(chunk), _tokens(chunk))
        splits = (
            {held_out: held_out_writer.close()}
            if part.held_out_set
            else {
                TRAIN: train_writer.close(),
                held_out: held_out_writer.close(),
            }
        )
    finally:
        train_writer.abandon()
        held_out_writer.abandon()
    if part.held_out_set:
        part.record(root).with_suffix(".digests").write_bytes(digests)
    return PartRecord(splits=splits, documents=documents, duplicates=duplicates, text_hash=text_hash.hexdigest())


def known_digests(config: DataConfig, root: Path) -> frozenset[bytes]:
    """Return the digests of all documents of the extra held-out sets."""
    files = chain.from_iterable(root.glob(f"parts/{source.tag}-*.digests") for source in config.held_out_sets)
    contents = [file.read_bytes() for file in files]
    return frozenset(raw[i : i + 16] for raw in contents for i in range(0, len(raw), 16))


def chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group documents into pieces of work."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text) + 64
        if size >= CHUNK_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def publish(config: DataConfig, parts: list[Part], tokenizer: Tokenizer, root: Path) -> Manifest:
    """Write the manifest of what is finished so far, for those who train on it already, and return it."""
    with FileLock(root / "parts" / "set.lock"):
        manifest = build_manifest(config, parts, finished(root, parts), tokenizer)
        if manifest.complete:
            check_not_empty(config, manifest)
        if manifest.splits[TRAIN]:
            manifest.save(root)
        return manifest


def check_not_empty(config: DataConfig, manifest: Manifest) -> None:
    """Raise UserError for a set that nobody can train on or evaluate on."""
    read = sum(source["documents_read"] for source in manifest.report.values())
    names = ", ".join(source.path for source in config.sources)
    if not manifest.splits[TRAIN]:
        raise UserError(f"no training document came out of {names} ({read} passed the filters)")
    if config.held_out_fraction > 0 and not manifest.splits[HELD_OUT]:
        raise UserError(
            f"none of {read} documents was held out for validation; raise data.held_out_fraction "
            f"({config.held_out_fraction}), or set it to 0 for a set without validation"
        )


def summary(config: DataConfig, manifest: Manifest, root: Path, progress: Progress) -> str:
    """Return the last line of a preparation."""
    state = "prepared" if manifest.complete else f"{progress.parts} parts of {progress.total_parts} are prepared"
    return (
        f"{config.name}: {state} in {root}: {manifest.tokens(TRAIN) / 1e6:.2f} M training tokens, "
        f"{manifest.tokens(HELD_OUT) / 1e6:.3f} M held out, {manifest.bytes_per_token(TRAIN):.2f} bytes per token "
        f"({progress.text_bytes / 1e6:.1f} MB in {duration(progress.seconds())})"
    )


def expected_bytes(config: DataConfig) -> int:
    """Return about how much text will be read, or 0 where it is not known."""
    sizes = [source.max_bytes or local_bytes(source) for source in (*config.sources, *config.held_out_sets)]
    return sum(sizes) if all(sizes) else 0


def _text_bytes(chunk: Chunk) -> int:
    return sum(chunk.train.text_bytes) + sum(chunk.held_out.text_bytes)


def _tokens(chunk: Chunk) -> int:
    return sum(chunk.train.lengths) + sum(chunk.held_out.lengths)


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
