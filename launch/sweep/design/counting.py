"""From `model.size`, which names a shape by its body, to N as a law counts it, and back."""

from __future__ import annotations

from dataclasses import dataclass

from launch.run.data_preparation import prepared
from launch.scaling.questions.next_run import concrete_model, counted
from trainer.config.model import parse_model
from trainer.config.run import RunConfig
from trainer.config.sizes import dimensions
from trainer.contract.errors import UserError


@dataclass(frozen=True)
class Counting:
    """A convention of N, with the vocabulary and context that it depends on."""

    convention: str
    vocab_size: int
    context_length: int

    def parameters(self, size: float) -> float:
        """Return N of the model that a size stands for. Raises UserError for a size that no model has."""
        try:
            wanted = dimensions(round(size)).body_params
        except ValueError as error:
            raise UserError(f"a cell of size {size:.3g}: {error}") from None
        if self.convention == "body":
            return float(size)
        values = {"size": str(wanted), "vocab_size": self.vocab_size, "context_length": self.context_length}
        return float(counted(parse_model(values), self.convention))

    def size(self, N: float) -> str:
        """Return the size of the ladder whose N is nearest."""
        try:
            model = concrete_model(N, self.convention, self.vocab_size, self.context_length)
            return str(dimensions(str(model.size)).body_params)
        except ValueError as error:
            raise UserError(f"a cell of N = {N:.3g}: {error}") from None


def counting_of(run: RunConfig, convention: str) -> Counting:
    """Return how the models of a run are counted. Raises UserError where that needs data that are not prepared."""
    return Counting(convention, 1 if convention == "body" else _vocabulary(run), run.model.context_length)


def _vocabulary(run: RunConfig) -> int:
    if run.model.vocab_size is not None:
        return run.model.vocab_rows
    if manifest := prepared(run.data):
        return manifest.vocab_size
    pieces = run.data.tokenizer.vocab_size
    if run.data.tokenizer.kind in ("bpe", "unigram") and pieces is not None:  # or a few less from little text
        return pieces
    raise UserError(
        f"run {run.name!r}: N counts the head, whose vocabulary is that of a tokenizer of kind "
        f"{run.data.tokenizer.kind!r}: prepare its data first (escala data prepare), set model.vocab_size, or give "
        "--n-convention body"
    )
