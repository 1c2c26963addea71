"""Text of tokens while they come: no character is torn, and nothing of a stop string is shown."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.data.tokenize.tokenizer import Tokenizer

UNFINISHED = "\ufffd"  # what bytes that are no character yet are decoded to


class Continuation:
    """The text that tokens add to a prompt. A token's text may depend on the one before it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        # An end token has no text; where it ends each line, it is a line feed.
        self.end = tokenizer.eos_id if tokenizer.eos_ends_documents else None

    def __call__(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """Return the text of all tokens."""
        before = self.text([token for token in prompt if token != self.end])
        return self.text([token for token in (*prompt, *tokens) if token != self.end])[len(before) :]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of a sequence from its beginning."""
        return self.tokenizer.decode(tokens)


class TextStream:
    """Gives out the text of a continuation piece by piece: all pieces together are its text.

    Text is held back while it ends within a character, or with what may become a stop string.
    """

    def __init__(self, continuation: Continuation, prompt: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._text_of, self._stops = continuation.text, stops
        self._tokens = [token for token in prompt if token != continuation.end]
        self._end = continuation.end
        self._context, self._told = 0, len(self._tokens)  # the tokens between these were given out last
        self._held = ""
        self.stopped = False
        self.pushed = 0

    def push(self, token: int) -> str:
        """Take the next token, and return the text that is final now."""
        self.pushed += 1
        if token == self._end:
            return ""
        self._tokens.append(token)
        return self._filtered(self._decoded(), last=False)

    def close(self) -> str:
        """Return the rest of the text."""
        return self._filtered(self._decoded(whatever=True), last=True)

    def _decoded(self, whatever: bool = False) -> str:
        """Return the new text, or nothing while it ends within a character."""
        before = self._text_of(self._tokens[self._context : self._told])
        text = self._text_of(self._tokens[self._context :])
        if text.endswith(UNFINISHED) and not whatever:
            return ""
        self._context, self._told = self._told, len(self._tokens)
        return text[len(before) :]

    def _filtered(self, text: str, *, last: bool) -> str:
        """Return what is before a stop string, and hold back what may become one."""
        if self.stopped:
            return ""
        text = self._held + text
        found = cut(text, self._stops)
        self.stopped, self._held = len(found) < len(text), ""
        if not last and not self.stopped:
            held = max((_overlap(text, stop) for stop in self._stops), default=0)
            found, self._held = text[: len(text) - held], text[len(text) - held :]
        return found


def cut(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text are the beginning of a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
