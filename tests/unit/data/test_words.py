"""Words are counted as `str.split` separates them, whatever white space Unicode knows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.prepare.words import count_words

SPACES = "".join(c for c in map(chr, range(0x110000)) if c.isspace())
NEAR = "a\x84\xa1\u2010\u200b\u2027\u3001\ufeff数😀\u1680\u167f"


TEXT = st.text(st.one_of(st.sampled_from(SPACES + NEAR), st.characters(exclude_categories=["Cs"])), max_size=60)


@given(st.lists(TEXT, max_size=5))
@settings(max_examples=300, deadline=None)
def test_words_are_those_of_split(texts: list[str]) -> None:
    assert count_words([text.encode() for text in texts]) == [len(text.split()) for text in texts]


def test_every_space_of_unicode_separates() -> None:
    text = "".join(f"w{space}" for space in SPACES)
    assert len(SPACES) > 20 and count_words([text.encode()]) == [len(text.split())] == [len(SPACES)]
