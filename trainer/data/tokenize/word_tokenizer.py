"""Words as tokens, with a closed vocabulary: the protocol of word-level tables (Mikolov 2010, Merity et al. 2016).

Words are what white space separates. Each line ends with `<eos>`, which is a token like any other: it is predicted, and
it counts. A word outside the vocabulary is `<unk>`, which WikiText and Penn Treebank have in their text already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from trainer.contract.errors import UserError
from trainer.data.tokenize.tokenizer import content_hash

UNKNOWN, END = "<unk>", "<eos>"


class Words:
    """A vocabulary file: a word a line, its id the number of the line, the most frequent first.

    The end token ends each line. The last line of a document needs no line feed: the document's end stands for it.
    """

    eos_ends_documents = False

    def __init__(self, model: bytes) -> None:
        try:
            self._words = model.decode().removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"not a vocabulary of words: {error}") from None
        self._ids = {word: number for number, word in enumerate(self._words)}
        if missing := {UNKNOWN, END} - self._ids.keys():
            raise UserError(f"not a vocabulary of words: it has no {min(missing)}")
        if len(self._ids) < len(self._words):
            raise UserError("not a vocabulary of words: some are in it twice")
        self.vocab_size, self.eos_id, self.unknown = len(self._words), self._ids[END], self._ids[UNKNOWN]
        self._known = {**self._ids, END: self.unknown}  # what is written `<eos>` ends no line
        self.hash = content_hash(model)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text without the end of its last line."""
        ids: list[int] = []
        for line in text.removesuffix("\n").split("\n"):
            ids.extend(self._known.get(word, self.unknown) for word in line.split())
            ids.append(self.eos_id)
        return ids[:-1]

    def encoder(self, itemsize: int) -> Callable[[bytes], bytes]:
        """Return the function from UTF-8 text to its ids as little-endian integers of so many bytes."""
        return lambda text: np.array(self.encode(text.decode()), dtype=f"<u{itemsize}").tobytes()

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words with a space between them, and a line feed for each end."""
        parts: list[str] = []
        for token in ids:
            if parts and parts[-1] != "\n" and token != self.eos_id:
                parts.append(" ")
            parts.append("\n" if token == self.eos_id else self._words[int(token)])
        return "".join(parts)

    def piece(self, token: int) -> str:
        """Return one token as it is shown to people."""
        return self._words[int(token)]

    def byte_lengths(self) -> list[int]:
        """Return the bytes of each word and the space before it."""
        return [len(word.encode()) + 1 for word in self._words]


def count_vocabulary(texts: Iterable[str], most: int | None = None) -> bytes:
    """Return the vocabulary of a text as a file: all of its words, or the `most` frequent. Raises UserError for none.

    Words that are equally frequent stand in the order of their letters.
    """
    counts: Counter[str] = Counter()
    lines = 0
    for text in texts:
        counts.update(text.split())
        lines += text.count("\n") + (not text.endswith("\n"))
    if not counts:
        raise UserError("there is no vocabulary: the sources gave no words")
    counts[UNKNOWN] += counts.pop(END, 0)
    counts[END] = lines
    kept = sorted(counts, key=lambda word: (-counts[word], word))
    if most is not None and most < len(kept):
        words = [word for word in kept if word not in (UNKNOWN, END)][: most - 2]
        counts[UNKNOWN] += sum(counts[word] for word in kept) - sum(counts[word] for word in (*words, UNKNOWN, END))
        kept = sorted([*words, UNKNOWN, END], key=lambda word: (-counts[word], word))
    return "".join(f"{word}\n" for word in kept).encode()
