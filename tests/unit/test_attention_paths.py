"""Every way in which attention is computed against one dense mask, and the memory that each takes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from trainer.models.build import build_model
from trainer.models.common.sight import Sight, alibi_slopes
from trainer.models.mixers.attention import attend, flex
from trainer.models.transformer.config import TransformerConfig

BLOCK = 16


@pytest.fixture(autouse=True)
def _short_sequences_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "FEW", 4)
    monkeypatch.setattr(flex, "BLOCK", BLOCK)


@st.composite
def sights(draw: st.DrawFn) -> tuple[Sight, int, int]:
    """Draw what is seen, heads and tokens. Some sequences are one document, some documents one token."""
    T, heads = draw(st.integers(5, 70)), draw(st.sampled_from([2, 4]))
    begins = draw(st.lists(st.lists(st.sampled_from([True, False, False, False]), min_size=T, max_size=T),
                           min_size=1, max_size=3))  # fmt: skip
    whole = draw(st.booleans())
    documents = torch.tensor(begins).int() * (not whole)
    slopes = alibi_slopes(heads) if draw(st.booleans()) else ()
    window = draw(st.none() | st.integers(1, T + 3))
    seen = documents.cumsum(1, dtype=torch.int32) if draw(st.booleans()) else None
    return Sight(seen, window, slopes, {}), heads, T


def parts(sight: Sight, heads: int, T: int, grad: bool) -> list[Tensor]:
    """Return queries (B, H, T, K), and keys and values of half the heads."""
    torch.manual_seed(0)
    B = 2 if sight.documents is None else len(sight.documents)
    return [torch.randn(B, n, T, 8).requires_grad_(grad) for n in (heads, heads // 2, heads // 2)]


def oracle(given: list[Tensor], sight: Sight) -> Tensor:
    return attend.masked_attention(*given, sight.mask(given[0], given[0].shape[2]), 0.0)


@settings(max_examples=40, deadline=None)
@given(sights())
def test_a_processor_computes_what_the_dense_mask_does(drawn: tuple[Sight, int, int]) -> None:
    sight, heads, T = drawn
    given = parts(sight, heads, T, grad=True)
    ours, dense = attend.causal_attention(*given, sight, 0.0), oracle(given, sight._replace(made=None))
    torch.testing.assert_close(ours, dense, atol=2e-6, rtol=1e-5)
    got, wanted = (torch.autograd.grad(x.square().sum(), given) for x in (ours, dense))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


DOCUMENTS = torch.tensor([[0] * 30 + [1] * 3 + [2] * 37, [0] * 70], dtype=torch.int32)


@pytest.mark.parametrize(
    "sight", [Sight(DOCUMENTS, 20), Sight(None, 40, alibi_slopes(4)), Sight(DOCUMENTS, None, alibi_slopes(4))]
)
def test_flex_attention_computes_what_the_dense_mask_does(sight: Sight) -> None:
    """Pair by pair, as eager FlexAttention does on a processor, which has no backward pass of it."""
    given = parts(sight, 4, 70, grad=False)
    torch.testing.assert_close(flex.flexible_attention(*given, sight), oracle(given, sight), atol=2e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(sights())
def test_blocks_are_those_that_torch_finds_by_evaluating_all_pairs(drawn: tuple[Sight, int, int]) -> None:
    sight, _, T = drawn
    ours = flex.block_mask(sight, T, torch.device("cpu"))
    B = None if sight.documents is None else len(sight.documents)
    theirs = create_block_mask(ours.mask_mod, B, None, T, T, device="cpu", BLOCK_SIZE=BLOCK)
    assert ours.shape[-2:] == theirs.shape[-2:] and torch.equal(ours.to_dense(), theirs.to_dense())
    for counts, places in (("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices")):
        numbers = getattr(ours, counts)
        assert torch.equal(numbers, getattr(theirs, counts))
        listed = torch.arange(numbers.shape[-1]) < numbers[..., None]
        assert torch.equal(getattr(ours, places)[listed], getattr(theirs, places)[listed])


@pytest.mark.parametrize("window", [None, 9])
def test_heads_of_tensor_and_sequence_ranks_are_those_of_one_process(window: int | None) -> None:
    """Ranks attend from their heads over whole sequences (`trainer/parallel/sequence.py`)."""
    sight = Sight(DOCUMENTS, window, alibi_slopes(4))
    given = parts(sight, 4, 70, grad=False)
    whole = attend.causal_attention(*given, sight, 0.0)
    shares = [attend.causal_attention(*(x.chunk(2, 1)[r] for x in given), sight.share(r, 2), 0.0) for r in range(2)]
    torch.testing.assert_close(torch.cat(shares, dim=1), whole)


@pytest.mark.parametrize("window", [None, 9])
def test_recomputation_sees_the_same(window: int | None) -> None:
    sight = Sight(DOCUMENTS, window, (), {})
    given = parts(sight, 4, 70, grad=True)
    plain = attend.causal_attention(*given, sight, 0.0)
    again = checkpoint(attend.causal_attention, *given, sight, 0.0, use_reentrant=False)
    got, wanted = (torch.autograd.grad(x.square().sum(), given) for x in (again, plain))
    torch.testing.assert_close((again, got), (plain, wanted))


@pytest.mark.parametrize("changes", [{}, {"mixer": {"attention": {"window": 5}}}, {"position": "alibi"}], ids=str)
def test_reading_in_parts_with_a_state_is_reading_at_once(changes: dict[str, Any]) -> None:
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 61, "context_length": 70}
    model = build_model(TransformerConfig.model_validate({**shape, **changes}), 0).eval()
    text, state = torch.randint(0, 61, (2, 70), generator=torch.Generator().manual_seed(0)), model.initial_state()
    cuts = [31, 1, 38]
    with torch.no_grad():
        pairs = zip(text.split(cuts, 1), DOCUMENTS.split(cuts, 1), strict=True)
        read = [model(part, documents=numbers, state=state) for part, numbers in pairs]
        whole = model(text, documents=DOCUMENTS)
    torch.testing.assert_close(torch.cat(read, dim=1), whole, atol=2e-5, rtol=1e-4)


class _Largest(TorchDispatchMode):
    """The bytes of the largest storage that any operation returned. A view has the storage of what it views."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.bytes = max([self.bytes, *(x.untyped_storage().nbytes() for x in tree_leaves(made) if torch.is_tensor(x))])
        return made


MASKED: list[dict[str, Any]] = [
    {"document": 300}, {"document": 300, "window": 64}, {"document": 300, "position": "alibi"}, {"window": 64},
    {"document": 300, "window": 64, "position": "alibi"}, {"window": 2000}, {"position": "alibi"},
]  # fmt: skip


def largest(context: int, document: int | None = None, window: int | None = None, **model: Any) -> int:
    """Return the bytes of the largest tensor of a step, forward and backward."""
    mixer = {"attention": {"window": window}} if window else "attention"
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 1, "vocab_size": 8, "context_length": context, "mixer": mixer}
    built = build_model(TransformerConfig.model_validate({**shape, **model}), 0)
    text = torch.zeros(1, context, dtype=torch.int64)
    documents = None if document is None else (torch.arange(context) // document)[None].int()
    with _Largest() as found:
        built(text, text, documents=documents).sum().backward()
    return found.bytes


@pytest.mark.parametrize("kind", MASKED, ids=str)
def test_memory_of_a_masked_step_grows_with_the_context(monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]) -> None:
    """A mask of T x T is the largest tensor from T = 128 on here, with four times the bytes at twice the tokens."""
    monkeypatch.undo()
    long = (1024, 2048, 4096)
    sizes = [largest(T, **kind) for T in long]
    assert all(after <= 2.1 * before for before, after in pairwise(sizes)), sizes


def test_a_mask_of_all_pairs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "FEW", 1 << 20)
    assert largest(2048, 300) >= 2048**2


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every sequence take the path of GPUs."""
    monkeypatch.setattr(attend, "_has_flex", lambda query: True)
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("on_a_gpu")
def test_a_compiled_block_makes_its_masks_without_a_break() -> None:
    """Traced whole, as `fullgraph` demands, and once for all steps whose documents differ."""
    shape = {"d_model": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 61, "context_length": 64, "position": "alibi"}
    mixer = {"mixer": {"attention": {"window": 9}}}
    model = build_model(TransformerConfig.model_validate({**shape, **mixer}), 0).eval()
    text = torch.randint(0, 61, (2, 64), generator=torch.Generator().manual_seed(0))
    numbers = [(torch.rand(2, 64) < 0.1).cumsum(1).int() for _ in range(2)]
    with torch.no_grad():
        plain = [model(text, documents=n) for n in numbers]
        for block in model.blocks:
            block.compile(backend="eager", fullgraph=True)
        compiled = [model(text, documents=n) for n in numbers]
    torch.testing.assert_close(compiled, plain)
