"""How faithfully a tokenizer gives text back, measured on a sample of each source before a set is made with it.

What a tokenizer drops (line ends, capitals, characters that it does not know) no model can learn, and bits per byte
count text that was never seen.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.contract.errors import UserError
from trainer.contract.run_dir import write_atomically
from trainer.data.store.manifest import Manifest
from trainer.data.tokenize.tokenizer import Tokenizer

FILE = "round_trip.json"  # beside the tokenizer
DOCUMENTS, CHARACTERS = 64, 1 << 17  # measured of each sampled part, at most
AROUND = 16  # characters shown on each side of a difference


@dataclass(frozen=True)
class RoundTrip:
    """What became of sampled documents that were encoded and decoded again."""

    documents: int
    altered: int
    text: str = ""  # around the first difference of the first altered document
    comes_back_as: str = ""

    def sentence(self, source: str) -> str:
        """Say how lossy the tokenizer is."""
        return (
            f"the tokenizer alters {self.altered} of {self.documents} sampled documents of source {source!r} "
            f"({self.altered / self.documents:.0%}): for instance {self.text!r} comes back as {self.comes_back_as!r}"
        )


class Kept:
    """A few documents of each part of each source, taken while a sample goes by."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, int], list[str]] = defaultdict(list)

    def passing(self, sample: Iterable[tuple[str, int, str]]) -> Iterator[str]:
        """Yield the texts of a sample of (source, part, text)."""
        for source, part, text in sample:
            kept = self._texts[source, part]
            room = CHARACTERS - sum(map(len, kept)) if len(kept) < DOCUMENTS else 0
            if room > 0:
                kept.append(text[:room])
            yield text

    def by_source(self) -> dict[str, list[str]]:
        """Return what was kept."""
        texts: dict[str, list[str]] = defaultdict(list)
        for (source, _), kept in self._texts.items():
            texts[source] += kept
        return dict(texts)


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> RoundTrip:
    """Encode and decode texts, and count those that do not come back as they were."""
    documents, altered, example = 0, 0, ("", "")
    for text in texts:
        documents += 1
        back = tokenizer.decode(tokenizer.encode(text))
        if back != text:
            example = example if altered else around_difference(text, back)
            altered += 1
    return RoundTrip(documents, altered, *example)


def around_difference(text: str, back: str) -> tuple[str, str]:
    """Return what stands around the first place where two texts differ, in both."""
    same = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
    part = slice(max(0, same - AROUND), same + AROUND)
    return text[part], back[part]


def save(directory: Path, by_source: dict[str, RoundTrip]) -> None:
    """Keep the measurement beside the tokenizer, for all who prepare the set."""
    values = {source: asdict(found) for source, found in by_source.items()}
    write_atomically(directory / FILE, json.dumps(values, indent=1) + "\n")


def read(directory: Path) -> dict[str, RoundTrip]:
    """Return the measurement of a tokenizer, by source; an empty one where it was never measured."""
    try:
        values = json.loads((directory / FILE).read_text(encoding="utf-8"))
        return {source: RoundTrip(**found) for source, found in values.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{directory / FILE} is damaged ({error}); remove it, and it is measured again") from None


def with_round_trips(manifest: Manifest, directory: Path) -> Manifest:
    """Return the manifest with the measurement in the report of each source."""
    found: dict[str, Any] = {
        source: {**manifest.report[source], "round_trip": asdict(measured)}
        for source, measured in read(directory).items()
        if source in manifest.report
    }
    return manifest.model_copy(update={"report": {**manifest.report, **found}})


def altered_share(manifest: Manifest) -> str:
    """Return a clause for a summary that says how many sampled documents came back altered; empty for none."""
    found = [r["round_trip"] for r in manifest.report.values() if isinstance(r, dict) and "round_trip" in r]
    altered = sum(measured["altered"] for measured in found)
    total = sum(measured["documents"] for measured in found)
    return f"; the tokenizer alters {altered} of {total} sampled documents (see escala data inspect)" if altered else ""
