"""One prompt under every decoder: what each produces, how probable it is, and which was most probable."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from typing import Any

from trainer.config.decoding import DecodingConfig
from trainer.contract.errors import UserError
from trainer.decoding.task import Produced, Task, decode

# What is compared: settings on top of tokens and seed.
COMPARED: dict[str, dict[str, Any]] = {
    "greedy": {"decoder": "greedy"},
    "beam 4": {"decoder": "beam", "width": 4},
    "beam 16": {"decoder": "beam", "width": 16},
    "beam 64": {"decoder": "beam", "width": 64},
    "beam 16, mean of a token": {"decoder": "beam", "width": 16, "length_alpha": 1.0},
    "exhaustive": {"decoder": "exhaustive"},
    "ancestral": {"decoder": "ancestral", "temperature": 1.0},
    "temperature 0.7": {"decoder": "ancestral", "temperature": 0.7},
    "top-k 40": {"decoder": "ancestral", "temperature": 1.0, "top_k": 40},
    "top-p 0.9": {"decoder": "ancestral", "temperature": 1.0, "top_p": 0.9},
    "min-p 0.1": {"decoder": "ancestral", "temperature": 1.0, "min_p": 0.1},
    "typical 0.9": {"decoder": "ancestral", "temperature": 1.0, "typical": 0.9},
    "best of 16": {"decoder": "best_of", "temperature": 1.0, "draws": 16},
    "repetition penalty 1.3": {"decoder": "greedy", "repetition_penalty": 1.3},
}


@dataclass(frozen=True)
class Compared:
    """A decoder's continuation, or why it has none."""

    name: str
    text: str = ""
    produced: Produced | None = None
    refused: str = ""


@dataclass(frozen=True)
class Comparison:
    """All decoders' continuations of one prompt."""

    rows: list[Compared]

    def made(self) -> list[tuple[Compared, Produced]]:
        """Return the rows that have a continuation."""
        return [(row, row.produced) for row in self.rows if row.produced is not None]

    def best(self) -> tuple[Compared, Produced]:
        """Return the most probable continuation; of equal ones the first."""
        return max(self.made(), key=lambda pair: pair[1].logprob)

    def as_json(self) -> dict[str, Any]:
        """Return all rows as plain values."""
        rows = [
            {"name": row.name, "refused": row.refused}
            if row.produced is None
            else {
                "name": row.name,
                "text": row.text,
                "tokens": len(row.produced.tokens),
                "logprob": row.produced.logprob,
                "end": row.produced.end,
            }
            for row in self.rows
        ]
        return {"most_probable": self.best()[0].name, "findings": findings(self), "decoders": rows}


def compare(task: Task) -> Comparison:
    """Continue one prompt by all decoders. Raises UserError for several prompts."""
    if len(task.prompts) != 1:
        raise UserError(f"a comparison takes one prompt, not {len(task.prompts)}")
    return Comparison([_compared(task, name, settings) for name, settings in COMPARED.items()])


def _compared(task: Task, name: str, settings: dict[str, Any]) -> Compared:
    common = {"tokens": task.config.tokens, "seed": task.config.seed}
    try:
        ((produced, *_),) = decode(replace(task, config=DecodingConfig(**common, **settings)))
    except UserError as error:
        if settings["decoder"] != "exhaustive":
            raise
        return Compared(name, refused=str(error))
    assert task.continued is not None
    return Compared(name, task.continued(task.prompts[0], produced.tokens), produced)


def findings(comparison: Comparison) -> list[str]:
    """Say what the lecture says of decoders, where it shows here."""
    made = {row.name: produced for row, produced in comparison.made()}
    row, best = comparison.best()
    told = [f"most probable: {row.name}, {best.logprob:.3f} nats"]
    greedy = made["greedy"]
    if best.logprob > greedy.logprob + 1e-4:
        told.append(
            f"greedy is not the most probable sequence: {row.name} found one that is "
            f"{best.logprob - greedy.logprob:.3f} nats more probable"
        )
    lengths = [len(made[name].tokens) for name in ("beam 4", "beam 16", "beam 64")]
    if lengths[-1] < lengths[0]:
        told.append(
            f"wide beams like short text: {lengths[0]}, {lengths[1]} and {lengths[2]} tokens with widths 4, 16 and 64"
        )
    return told


def table(prompt: str, comparison: Comparison) -> str:
    """Return the comparison for people."""
    width = max(len(row.name) for row in comparison.rows)
    lines = [f"prompt: {prompt!r}", "", f"{'decoder':{width}}  {'nats':>9}  tokens  {'a token':>8}  text"]
    for row in comparison.rows:
        if row.produced is None:
            lines.append(f"{row.name:{width}}  refused: {row.refused}")
            continue
        one, tokens = row.produced, len(row.produced.tokens)
        text = textwrap.shorten(repr(row.text), 72, placeholder=" ...")
        lines.append(f"{row.name:{width}}  {one.logprob:9.3f}  {tokens:6}  {one.logprob / tokens:8.3f}  {text}")
    return "\n".join([*lines, "", *findings(comparison)])
