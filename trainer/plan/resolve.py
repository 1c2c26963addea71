"""Join a configuration with the prepared data: the vocabulary is the tokenizer's."""

from __future__ import annotations

from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.data.store.manifest import Manifest


def with_data(config: RunConfig, manifest: Manifest) -> RunConfig:
    """Return the configuration with the vocabulary filled in. Raises UserError where a stated one is too small."""
    stated = config.model.vocab_size
    if stated is not None and stated < manifest.vocab_size:
        raise UserError(
            f"model.vocab_size {stated} is smaller than the tokenizer's {manifest.vocab_size} "
            f"(data set {manifest.name!r}): leave it out to take the tokenizer's"
        )
    if stated is not None:
        return config
    model = config.model.model_copy(update={"vocab_size": manifest.vocab_size})
    return config.model_copy(update={"model": model})
