"""What `escala data` does: find the configuration or the set, run the preparation, show and check what is there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from launch.run.rank_packages import need_rank_packages
from launch.show.console import make_console
from trainer.config.base import parse_section
from trainer.config.data import DataConfig
from trainer.config.load import resolve_base, set_values
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_USER_ERROR
from trainer.data.prepare.account import account
from trainer.data.store.manifest import FILE, Manifest
from trainer.data.tokenize.round_trip import RoundTrip


def load_data(name: str, assignments: tuple[str, ...] = ()) -> DataConfig:
    """Return the data section that a name in configs/data, a data file or a run's file stands for."""
    values = resolve_base(name, "data", name)
    if isinstance(inner := values.get("data"), dict | str):  # a run's file
        values = resolve_base(inner, "data", name)
    values = set_values(values, [text.removeprefix("data.") for text in assignments])
    if name.endswith((".yaml", ".yml")):
        values.setdefault("name", Path(name).stem)
    return parse_section(DataConfig, values, name)


def find_set(name: str, assignments: tuple[str, ...] = ()) -> tuple[Path, DataConfig | None]:
    """Return the directory of a prepared set, and its configuration where it was named by that."""
    if (Path(name) / FILE).exists():
        return Path(name), None
    if Path(name).is_dir():
        raise UserError(f"there is no prepared set in {name} (no {FILE})")
    if "/" in name and not name.endswith((".yaml", ".yml")):
        raise UserError(f"there is no prepared set in {name}, and no such directory")
    section = load_data(name, assignments)
    if "://" in section.root:
        raise UserError(
            f"{section.directory} is remote; this command reads local sets: copy it here and name its directory"
        )
    return Path(section.directory), section


def run_prepare(section: DataConfig, workers: int | None, task: str | None, *, extend: bool = False) -> None:
    """Prepare in a process of its own, which may import `datasets`. Its progress comes to this terminal."""
    need_rank_packages()
    command = [sys.executable, "-m", "trainer.data.prepare", "--config", "-"]
    command += ["--workers", str(workers)] if workers else []
    command += ["--task", task] if task else []
    command += ["--extend"] if extend else []
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr)
    assert process.stdin is not None
    process.stdin.write(json.dumps(section.model_dump(mode="json")).encode())
    process.stdin.close()
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if code == EXIT_USER_ERROR:
        sys.exit(EXIT_USER_ERROR)  # the process has said what is wrong
    if code != 0:
        raise UserError(f"preparing {section.name!r} ended with code {code}; run the same command again to go on")


def print_summary(directory: Path, values: dict[str, Any]) -> None:
    """Print a table of the splits and their sources."""
    tokenizer, data_hash = values["tokenizer"], values["data_hash"]
    state = "" if values["complete"] else "  (preparation goes on)"
    table = Table(title=f"{directory}{state}", title_justify="left", caption_justify="left")
    table.caption = (
        f"tokenizer {tokenizer['hash']}, {tokenizer['vocab_size']} pieces, {tokenizer['dtype']}; data {data_hash}"
    )
    table.add_column("split")
    for column in ("shards", "documents", "tokens", "MB of text", "bytes/token"):
        table.add_column(column, justify="right")
    for split, counts in values["splits"].items():
        table.add_row(Text(split, style="bold"), *_cells(counts))
        if len(counts["sources"]) > 1:
            for source, own in counts["sources"].items():
                table.add_row(f"  {source}", *_cells(own))
    console = make_console()
    console.print(table)
    for line in account(values["report"]):
        console.print(line, markup=False, highlight=False)
    for tag, report in _by_source(values).items():
        if (tried := report.get("round_trip")) and tried["altered"]:
            console.print(RoundTrip(**tried).sentence(tag), markup=False, highlight=False)


def _by_source(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {tag: r for tag, r in values["report"].items() if isinstance(r, dict) and "documents_read" in r}


def _cells(counts: dict[str, Any]) -> list[str]:
    ratio = counts["bytes_per_token"]
    return [
        str(counts["shards"]),
        f"{counts['documents']:,}",
        f"{counts['tokens']:,}",
        f"{counts['text_bytes'] / 1e6:,.2f}",
        f"{ratio:.3f}" if ratio else "-",
    ]


def print_mixture(section: DataConfig | None, values: dict[str, Any]) -> None:
    """Print what share of the tokens seen each source has, stage by stage. A set does not know: runs may weigh anew."""
    sizes = {tag: counts["tokens"] for tag, counts in values["splits"]["train"]["sources"].items()}
    if len(section.sources if section else sizes) < 2:
        return
    if section is None:
        print("the weights of the mixture are in the configuration: escala data inspect CONFIG shows them")
        return
    weights = {source.tag: source.weight for source in section.sources}
    tree = Tree("mixture" if all(weights.values()) else "mixture: by size, every token once an epoch")
    first = {tag: weight if weight else sizes.get(tag, 0) for tag, weight in weights.items()}
    for begin, stage in [(0, first), *((stage.from_tokens, stage.weights) for stage in section.stages)]:
        branch = tree.add(f"from token {begin:,}") if section.stages else tree
        for tag, weight in stage.items():
            share = weight / sum(stage.values())
            held = (
                f"an epoch of it lasts {sizes[tag] / share:,.0f} tokens of the run"
                if sizes.get(tag) and share
                else "not read"
            )
            branch.add(f"{tag}  {share:.1%}  ({held})")
    make_console().print(tree)


def print_samples(texts: list[dict[str, Any]]) -> None:
    """Print decoded stretches of text."""
    console = make_console()
    for sample in texts:
        console.rule(f"{sample['source']}, token {sample['token']:,}", align="left")
        console.print(sample["text"], highlight=False)


def verify_with_progress(directory: Path) -> tuple[list[str], int]:
    """Return the problems of a set and the bytes that were checked, with a progress bar on a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from trainer.data.store.verify import set_bytes, verify

    total = set_bytes(Manifest.open(directory))
    console = make_console()
    bar = Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("verify", total=total)
        return verify(directory, lambda read: bar.advance(task, read)), total
