"""Attention without torch: counts, roles, splits, memory.

Letters: D d_model, H query heads, G key/value heads, K head width, Q and KV widths of queries and of keys or values.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from trainer.config.base import Section
from trainer.config.identity import Result
from trainer.config.parallel import Degrees
from trainer.contract.errors import UserError
from trainer.models.common.kept import STATISTIC, Kept
from trainer.models.mixers.base import Flops, MixerCost, Parameters, StateSize
from trainer.models.roles import Normal, Role, linear, norm
from trainer.plan.shape import MixerShape, Product


class AttentionOptions(Section):
    """The options of `attention`, beside the model's own keys for heads."""

    window: Result[int | None] = Field(
        None,
        gt=0,
        description="sliding window: the last tokens that each sees, itself among them; default all",
        exclude_if=lambda value: value is None,  # so that models without it keep their identity
    )


class AttentionCost(MixerCost[AttentionOptions]):
    """Multi-head attention with grouped-query heads. Tensor ranks hold whole heads."""

    Options: ClassVar[type[Section]] = AttentionOptions
    settings: ClassVar[frozenset[str]] = frozenset({"n_heads", "n_kv_heads", "qk_norm", "fused_qkv"})
    positions: ClassVar[frozenset[str]] = frozenset({"rotary", "alibi", "relative"})
    respects_documents: ClassVar[bool] = True

    @property
    def widths(self) -> tuple[int, int]:
        """Width of all queries, and of all keys or all values."""
        return self.config.heads * self.config.head_dim, self.config.kv_heads * self.config.head_dim

    def check(self) -> None:
        """Raise ValueError where heads do not divide the width."""
        model = self.config
        if model.d_model % model.heads:
            raise ValueError(f"d_model {model.d_model} is not a multiple of n_heads {model.heads}")
        if model.heads % model.kv_heads:
            raise ValueError(f"n_heads {model.heads} is not a multiple of n_kv_heads {model.kv_heads}")
        if model.position == "rotary" and model.head_dim % 2:
            raise ValueError(f"rotary positions need an even head width, d_model / n_heads is {model.head_dim}")

    def parameters(self) -> Parameters:
        """Count the parameters of one layer."""
        model, D, (Q, KV) = self.config, self.config.d_model, self.widths
        relative = D * Q + 2 * Q if model.position == "relative" else 0
        own = D * (Q + 2 * KV) + Q * D + int(model.bias) * (Q + 2 * KV + D) + relative
        return Parameters(own, norms=2 * model.norm_rows * model.head_dim if model.qk_norm else 0)

    def flops(self) -> Flops:
        """Count FLOPs; each token sees (T + 1) / 2 keys on average and the memory, or those of its window.

        Memory and distances go through matrices too, a share of them for each token, and pass no gradient back.
        """
        D, (Q, KV), T, M = self.config.d_model, self.widths, self.config.context_length, self.config.memory_length
        w = min(self.options.window or T + M, T + M)
        few = max(0, w - M)  # tokens that see fewer than the window holds
        seen = few * (few + 1) // 2 + few * M + (T - few) * w  # of all tokens of a sequence
        pair, extra = 4 * Q, 4 * M * D * (Q + 2 * KV) // T
        if self.config.position == "relative":
            pair, extra = 6 * Q, extra + 4 * (M + T) * D * Q // T
        return Flops(6 * (D * (Q + 2 * KV) + Q * D) + extra, context=3 * pair * seen // T)

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        """Return the roles of one layer's attention."""
        D, (Q, KV) = self.config.d_model, self.widths
        return {
            **linear("qkv", std, D, split="column", parts=(Q, KV, KV)),
            **linear("[qkv]", std, D, split="column"),
            **norm("[qk]_norm", split="shared heads"),
            **(self._relative_roles(std) if self.config.position == "relative" else {}),
            **linear("out", out_std, Q, split="row"),
        }

    def _relative_roles(self, std: float) -> dict[str, Role]:
        return {
            **linear("relative.r", std, self.config.d_model, split="column"),
            "relative.[uv]": Role(Normal(std), "vector", split="column"),
        }

    def shape(self) -> MixerShape:
        """Return what the time of a step depends on."""
        D, (Q, KV), rotary = self.config.d_model, self.widths, self.config.position == "rotary"
        return MixerShape(
            products=(Product(Q + 2 * KV, D, "column"), Product(D, Q, "row")),
            heads=self.config.heads,
            head_dim=self.config.head_dim,
            window=self.options.window,
            values=rotary * 8 * (Q + KV),
            fused_values=rotary * 2 * (Q + KV),
            exchanged=2 * Q + 2 * KV,
            memory=self.config.memory_length,
            flops=self._flops_of_segments(),
        )

    def _flops_of_segments(self) -> int:
        """Return the FLOPs of the forward pass of a token in making keys of a memory, and scores of distances."""
        D, (Q, KV), T, M = self.config.d_model, self.widths, self.config.context_length, self.config.memory_length
        by_distance = 2 * (M + T) * D * Q // T + 2 * Q * (M + T) if self.config.position == "relative" else 0
        return 2 * M * D * (Q + 2 * KV) // T + by_distance

    def state_size(self) -> StateSize:
        """Return the size of keys and values."""
        token, window = 2 * self.widths[1], self.options.window
        return StateSize(per_token=token) if window is None else StateSize(fixed=(window - 1) * token)

    def shared_widths(self) -> dict[str, int]:
        """Return the numbers of heads."""
        return {"n_heads": self.config.heads, "n_kv_heads": self.config.kv_heads}

    def check_splits(self, degrees: Degrees) -> None:
        """Raise `UserError` where heads cannot be shared by the tensor and sequence ranks."""
        t, s, model = degrees.tensor, degrees.sequence, self.config
        if s > 1 and (model.position == "relative" or model.carry):
            asked = "position relative" if model.position == "relative" else "carry"
            raise UserError(
                f"model.{asked} needs whole sequences on a rank, and the sequence degree is {s}: set "
                "parallel.sequence to 1"
            )
        if t > model.kv_heads and model.heads % t == 0:
            raise UserError(
                f"tensor degree {t} is greater than the {model.kv_heads} key/value heads: "
                f"use a tensor degree that divides {model.kv_heads}, or more key/value heads (model.n_kv_heads)"
            )
        super().check_splits(Degrees(degrees.data, 1, t))
        for name, count in self.shared_widths().items():
            if (count // t) % s:
                raise UserError(
                    f"{name} {count} / tensor {t} = {count // t} heads on a rank, not a multiple of the sequence "
                    f"degree {s}: sequence parallelism hands each rank whole heads, so lower a degree or add heads"
                )

    def fp8_sides(self, tensor: int) -> dict[str, int]:
        """Return the sides of the matrices that a tensor rank multiplies in fp8, by name."""
        (Q, KV), model = self.widths, self.config
        by_distance = model.memory_length or model.position == "relative"
        return {
            **({"context_length + memory": model.context_length + model.memory_length} if by_distance else {}),
            f"n_heads x head_dim / tensor {tensor}": Q // tensor,
            f"n_kv_heads x head_dim / tensor {tensor}": KV // tensor,
        }

    def activations(self, kept: Kept) -> int:
        """Return the bytes of a token; a CPU copies the output of attention."""
        model, t, value = self.config, kept.parallel.tensor, kept.value
        H, G, K = model.heads // t, model.kv_heads // t, model.head_dim
        Q, KV = H * K, G * K
        exchanged = kept.parallel.sequence > 1
        made_anew = model.position == "rotary" or model.qk_norm or exchanged  # queries and keys are no views
        statistics = 0
        if model.dropout and not kept.gpu:  # the plain kernel: scaled queries and keys, values, and the scores 3 times
            held = 3 * Q + 3 * H * model.context_length
            projection = 0
        else:
            statistics = H * STATISTIC
            held = Q + KV + Q  # queries, keys, output
            projection = KV  # values
            if model.fused_qkv and not exchanged:  # a view of part of a matrix keeps all of it
                projection, held = Q + 2 * KV, held if made_anew else Q
        copied = exchanged or (made_anew and not kept.gpu) or (model.dropout > 0 and not kept.gpu)
        held += Q if copied else 0
        norms = 0
        if model.qk_norm:
            whole = projection >= Q + 2 * KV  # then the input of both norms is kept already
            norms = kept.norm(K, H) + kept.norm(K, G) - (Q + KV) * value * whole
        if model.memory_length or model.position == "relative":
            held += self._kept_by_segments(kept, KV if made_anew else 0)
        return (held + projection) * value + norms + statistics

    def _kept_by_segments(self, kept: Kept, rotated: int) -> int:
        """Return the values that memory and distances leave of a token, measured; what all sequences share is left out.

        A mask with a gradient, which distances are, takes the plain kernel: it keeps each pair's weight.
        """
        model, t = self.config, kept.parallel.tensor
        T, M, (Q, KV) = model.context_length, model.memory_length, (width // t for width in self.widths)
        if model.position != "relative":
            return M * (model.d_model + Q + 2 * KV + rotated) // T + T + M
        H = model.heads // t
        pairs = H * (T + M) + ((T + M) // kept.value if M else 0)  # weights, and which there are
        return M * (Q + 2 * KV) // T + pairs + Q - H * STATISTIC // kept.value
