"""The roles of attention's parameters. Letters: D d_model, H query heads, G key/value heads, K head width."""

from __future__ import annotations

from trainer.config.model import ModelConfig
from trainer.models.roles import Role, linear, norm


def roles(config: ModelConfig, std: float, out_std: float) -> dict[str, Role]:
    """Return the roles of one layer's attention. Tensor ranks hold whole heads."""
    D, Q, KV = config.d_model, config.n_heads * config.head_dim, config.kv_heads * config.head_dim
    return {
        **linear("qkv", std, D, split="column", parts=(Q, KV, KV)),
        **linear("[qkv]", std, D, split="column"),
        **norm("[qk]_norm", split="shared heads"),
        **linear("out", out_std, Q, split="row"),
    }
