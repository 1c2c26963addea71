"""The page of `escala watch`: one file that shows everything without a network, and a small one that brings news."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from launch.show.costs import costs_text, total
from launch.watch.page_law import Laws
from launch.watch.run_table import reason_of
from launch.watch.run_view import Reader, RunView
from launch.watch.selection import STATES
from trainer.contract.errors import UserError
from trainer.contract.hiding import without_secrets
from trainer.contract.run_dir import utc_now, write_atomically

PAGE, NEWS = "index.html", "data.js"
MARK = '<meta name="generator" content="escala watch">'
MOST_POINTS, MOST_OF_A_RUN, FEWEST_OF_A_RUN = 20_000, 240, 24  # of curves: of all runs together, and of one
BETWEEN = "\x1e\x00\x1e"  # in no value of an environment
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def points_of_a_run(runs: int) -> int:
    """Return how many points a curve may have, so that the page stays small with any number of runs."""
    return max(FEWEST_OF_A_RUN, min(MOST_OF_A_RUN, MOST_POINTS // max(1, runs)))


class Page:
    """The page of the runs that a reader reads. It is made anew at most every `seconds`."""

    def __init__(self, reader: Reader, title: str, seconds: float) -> None:
        self.reader, self.title, self.seconds = reader, title, seconds
        self._laws = Laws()

    def data(self, *, wait: bool = False) -> str:
        """Return what the page shows now, as a call of its script with JSON. With `wait`, the laws are those of now."""
        views = self.reader.views()
        ledgers = list(dict.fromkeys(Path(v.run_dir).parent.parent / "ledger.jsonl" for v in views if v.sweep))
        known = [ledger for ledger in ledgers if ledger.is_file()]
        values = {
            "title": self.title,
            "time": utc_now(),
            "every": self.seconds,
            "states": STATES,
            "cost": costs_text(total(view.to_costs() for view in views)),
            "runs": [run_values(view) for view in views],
            "laws": self._laws.of(known, wait=wait),
        }
        return f"escala({script_json(values)});\n"

    def html(self, data: str) -> str:
        """Return the whole page with these data in it."""
        from jinja2 import Environment, PackageLoader, StrictUndefined  # late: only the page needs it
        from markupsafe import Markup

        environment = Environment(
            loader=PackageLoader("launch", "templates"), undefined=StrictUndefined, autoescape=True
        )
        template = environment.get_template("watch.html.j2")
        return template.render(title=without_secrets(self.title), mark=Markup(MARK), data=Markup(data))  # noqa: S704


def run_values(view: RunView) -> dict[str, object]:
    """Return what the page shows of a run. A curve is two lists: tokens and losses."""
    per_step = view.planned.tokens_per_step or 1
    tokens = [point.step * per_step if point.tokens is None else point.tokens for point in view.points]
    values = {
        "name": view.name,
        "sweep": view.sweep,
        "state": view.state,
        "why": reason_of(view),
        "step": view.step,
        "steps": view.steps,
        "loss": view.loss,
        "off": view.off,
        "speed": view.tokens_per_second,
        "mfu": view.mfu,
        "left": view.seconds_left if view.state == "running" else None,
        **view.to_costs(),
        "params": view.planned.parameters,
        "flops": view.planned.flops_per_token,
        "tokens": tokens,
        "losses": [float(f"{point.loss:.5g}") for point in view.points],
    }
    return {key: value for key, value in values.items() if value not in (None, "")}


def script_json(values: object) -> str:
    """Return values as JSON that may stand in a script of a page: text in it ends no script, and holds no secret."""
    texts = list(dict.fromkeys(_texts(values))) or [""]
    hidden = without_secrets(BETWEEN.join(texts)).split(BETWEEN)  # once: it goes through the whole environment
    known = {text: shown for text, shown in zip(texts, hidden, strict=True) if text != shown}
    text = json.dumps(_replaced(values, known) if known else values, ensure_ascii=False, separators=(",", ":"))
    for letter, escaped in UNSAFE.items():
        text = text.replace(letter, escaped)
    return text.encode("utf-8", "replace").decode()


def _texts(values: object) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict):
        yield from _texts(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _texts(value)


def _replaced(values: object, known: Mapping[str, str]) -> object:
    if isinstance(values, str):
        return known.get(values, values)
    if isinstance(values, dict):
        return {key: _replaced(value, known) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_replaced(value, known) for value in values]
    return values


def write_page(page: Page, directory: Path, *, wait: bool = False) -> Path:
    """Write the page and its news into a directory, and return the page's path.

    Raises `UserError` where the directory holds a page of somebody else.
    """
    path = directory / PAGE
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise UserError(f"{path} was not written by `escala watch`: name another directory")
    data = page.data(wait=wait)
    write_atomically(path, page.html(data))
    write_atomically(directory / NEWS, data)
    return path


def keep_writing(page: Page, directory: Path) -> None:
    """Write the page again and again, until Ctrl-C."""
    while True:
        began = time.monotonic()
        write_page(page, directory)
        time.sleep(max(0.0, page.seconds - (time.monotonic() - began)))
