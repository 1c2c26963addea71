"""The evaluations of one run: on which sets, and what the newest gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from trainer.config.run import RunConfig
from trainer.data.read.batches import MicroBatch, held_out
from trainer.data.read.held_out_lanes import held_out_lanes
from trainer.data.read.opening import masks_documents, open_split
from trainer.data.read.transfer import pinned
from trainer.data.store.manifest import Manifest
from trainer.engine.engine import Engine
from trainer.evaluation.perplexity import Evaluation, evaluate
from trainer.evaluation.text_bytes import TextBytes


class Evaluator:
    """Evaluates the model on all sets of a run. Every rank makes one and calls it at the same steps."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        engine: Engine,
        sets: list[str],
        *,
        micro_batch: int,
        text_bytes: TextBytes | None,
    ) -> None:
        self.config, self.manifest, self.engine, self.sets = config, manifest, engine, sets
        self.micro_batch, self.text_bytes = micro_batch, text_bytes
        self.newest: list[Evaluation] = []

    def __call__(self) -> list[Evaluation]:
        """Return an evaluation of each set."""
        self.newest = [self._evaluate(name) for name in self.sets]
        return self.newest

    def _evaluate(self, name: str) -> Evaluation:
        config = self.config
        return evaluate(
            self.engine,
            self.engine.mesh,
            self._batches(name),
            name=name,
            position_buckets=config.evaluation.position_buckets,
            text_bytes=self.text_bytes,
            carried=self.engine.new_carried() if config.model.carries else None,  # that of training stays as it is
        )

    def _batches(self, name: str) -> Iterator[MicroBatch]:
        """Return the sequences of a set, laid out as training lays out its own."""
        config, mesh = self.config, self.engine.mesh
        read: Callable[..., Iterator[MicroBatch]] = partial(held_out, packed=config.data.packing == "best_fit")
        if config.model.carries:
            read = partial(held_out_lanes, lanes=config.batch.tokens_per_step // config.model.context_length)
        batches = read(
            open_split(config.data, name, self.manifest),
            config.model.context_length,
            config.evaluation.tokens,
            self.micro_batch,
            mesh.dp_rank,
            mesh.dp_size,
            documents=masks_documents(config.data),
        )
        return map(pinned, batches) if self.engine.device.type == "cuda" else batches
