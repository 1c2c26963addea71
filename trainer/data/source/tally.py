"""What became of the rows of a source, counted."""

from __future__ import annotations

from pydantic import BaseModel

# What to say of a count.
TOLD = {
    "without_text": "without text",
    "too_short": "shorter than min_chars",
    "not_matching": "without what 'matching' looks for",
    "cut": "cut to max_chars",
    "surrogates": "with lone surrogates, which became U+FFFD",
}


class Tally(BaseModel):
    """What became of the rows of a source."""

    rows: int = 0
    without_text: int = 0  # null, or a row that lacks the column
    too_short: int = 0  # shorter than min_chars
    not_matching: int = 0  # the expression of `matching` is not in it
    cut: int = 0  # longer than max_chars
    surrogates: int = 0  # with code points that no UTF-8 text can hold; each became U+FFFD

    def told(self) -> str:
        """Return the counts that are not 0, in words."""
        said = [f"{count:,} {TOLD[key]}" for key, count in self.altered().items()]
        return f"of {self.rows:,} rows, {', '.join(said)}" if said else f"{self.rows:,} rows"

    def altered(self) -> dict[str, int]:
        """Return the counts of rows that are not documents as they stand, without those that are 0."""
        return {key: count for key, count in self.model_dump().items() if count and key in TOLD}
