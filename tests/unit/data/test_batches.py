"""Batches: the same global order whoever reads it, from wherever it goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.data.builders import EOS, open_train, random_docs, write_set
from trainer.config.data import DataConfig, SourceConfig
from trainer.contract.errors import UserError
from trainer.data.order.ramp import Ramp
from trainer.data.read.batches import Batches, MicroBatch, held_out
from trainer.data.read.opening import evaluation_sets, open_batches
from trainer.data.store.manifest import Manifest
from trainer.data.store.token_set import TokenSet

T, S = 16, 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "made"
    sources = {"a": random_docs(1, 120), "b": random_docs(2, 60)}
    write_set(path, sources, shard_tokens=500, held_out=random_docs(3, 30))
    return path


def data(root: Path, **changes: Any) -> DataConfig:
    sources = (SourceConfig(name="a", path="x.jsonl"), SourceConfig(name="b", path="y.jsonl"))
    return DataConfig(**{"name": root.name, "root": str(root.parent), "sources": sources, **changes})


def mixed(root: Path, **changes: Any) -> DataConfig:
    sources = tuple(SourceConfig(name=n, path="x.jsonl", weight=w) for n, w in (("a", 0.3), ("b", 0.7)))
    return data(root, sources=sources, **changes)


CONFIGS = {
    "plain": data,
    "mixture": mixed,
    "stages": lambda root: mixed(root, stages=[{"from_tokens": 20 * S * T + 5, "weights": {"a": 1.0}}]),
    "windows": lambda root: data(root, shuffle_window=512),
    "packed": lambda root: data(root, packing="best_fit"),
}


def tokens_of(batches: list[MicroBatch]) -> np.ndarray:
    return torch.cat([torch.cat([b.inputs, b.targets], dim=1) for b in batches]).numpy()


def read(config: DataConfig, steps: range, *, dp: int = 1, state: Any = None, **options: Any) -> np.ndarray:
    """Return what all data ranks together read in some steps: (steps * S, 2 T)."""
    rows = []
    ranks = [
        open_batches(
            config,
            context_length=T,
            sequences_per_step=S,
            micro_batch=options.get("micro_batch", 5),
            seed=7,
            dp_rank=rank,
            dp_size=dp,
            state=state,
            ramp=options.get("ramp"),
        )
        for rank in range(dp)
    ]
    for step in steps:
        rows += [tokens_of(batches.step(step)) for batches in ranks]
    for batches in ranks:
        batches.close()
    return np.concatenate(rows)


@pytest.mark.parametrize("kind", CONFIGS)
def test_going_on_is_exact_at_any_place_and_number_of_ranks(root: Path, kind: str) -> None:
    """Stopped at 20, 50, 80 and 95 %, twice in a row, with the ranks changed from 2 to 1, 2, 4 and back."""
    config, steps = CONFIGS[kind](root), 40
    whole = read(config, range(steps), dp=2)
    for percent in (20, 50, 80, 95):
        first = steps * percent // 100
        for dp in (1, 2, 4):
            again = (first + steps) // 2
            parts = [
                read(config, range(first), dp=2),
                read(config, range(first, again), dp=dp, state=state_at(config, first)),
                read(config, range(again, steps), dp=2, state=state_at(config, again), micro_batch=2),
            ]
            assert (np.concatenate(parts) == whole).all(), (percent, dp)


def state_at(config: DataConfig, step: int) -> dict[str, Any]:
    batches = open_batches(config, context_length=T, sequences_per_step=S, micro_batch=4, seed=7)
    batches.close()
    return batches.state(step)


@given(step=st.integers(0, 10**7), seed=st.integers(0, 2**40), dp=st.sampled_from([1, 2, 3, 4, 6, 12]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_step_for_any_ranks(root: Path, step: int, seed: int, dp: int) -> None:
    options = {"context_length": T, "sequences_per_step": S, "seed": seed, "prefetch": 0}
    tokens = open_train(root)
    alone = tokens_of(Batches(tokens, micro_batch=S, **options).step(step))
    shared = [Batches(tokens, micro_batch=2, dp_rank=r, dp_size=dp, **options).step(step) for r in range(dp)]
    assert (np.concatenate([tokens_of(batches) for batches in shared]) == alone).all()


RISE = Ramp(S, ((3, 5), (6, 4)))


@pytest.mark.parametrize("kind", ["plain", "mixture", "packed"])
def test_a_batch_that_rises_reads_the_same_samples_in_the_same_order(root: Path, kind: str) -> None:
    config = CONFIGS[kind](root)
    flat = read(config, range(12))
    risen = read(config, range(12), ramp=RISE)
    assert len(risen) == 5 * 3 + 4 * 6 + 3 * S
    assert np.array_equal(risen, flat[: len(risen)]), "only cut at other places"
    later = [read(config, range(step, 12), ramp=RISE, dp=3, state=rising_state(config, step)) for step in (4, 7, 10)]
    for step, tail in zip((4, 7, 10), later, strict=True):
        whole = [read(config, range(k, k + 1), ramp=RISE, dp=3) for k in range(step, 12)]
        assert np.array_equal(tail, np.concatenate(whole)), "a pure function of the step, for any number of ranks"
        assert np.array_equal(np.concatenate(whole), risen[RISE.before(step) :])


def rising_state(config: DataConfig, step: int, ramp: Ramp | None = RISE) -> dict[str, Any]:
    batches = open_batches(config, context_length=T, sequences_per_step=S, micro_batch=5, seed=7, ramp=ramp)
    return batches.state(step)


def test_the_position_of_a_batch_that_rises_is_its_samples(root: Path) -> None:
    state = rising_state(data(root), 7)
    assert state["samples"] == 5 * 3 + 2 * 6
    with pytest.raises(UserError, match=r"trained with a batch.warmup of .*\[\[3, 5\], \[6, 4\]\], this run has \[\]"):
        read(data(root), range(7, 8), state=state)
    with pytest.raises(UserError, match="the order of data would not go on"):
        read(data(root), range(7, 8), state=rising_state(data(root), 7, None), ramp=RISE)


def test_reading_ahead_changes_nothing_even_when_the_reader_jumps(root: Path) -> None:
    options = {"context_length": T, "sequences_per_step": S, "micro_batch": 4, "seed": 1}
    plain, ahead = Batches(open_train(root), prefetch=0, **options), Batches(open_train(root), prefetch=3, **options)
    for step in (0, 1, 2, 7, 8, 3, 4, 100, 101, 0):
        assert (tokens_of(plain.step(step)) == tokens_of(ahead.step(step))).all()
    ahead.close()


def test_an_epoch_trains_every_target_once(root: Path) -> None:
    tokens = open_train(root)
    n = tokens.num_samples(T)
    batches = Batches(tokens, context_length=T, sequences_per_step=n, micro_batch=n, seed=3, prefetch=0)
    (batch,) = batches.step(0)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    expected = np.sort(np.concatenate([tokens.gather(np.arange(n), T)[:, 1:].ravel()]))
    assert (np.sort(batch.targets.numpy().ravel()) == expected).all()
    assert batches.epochs(2) == {"train": 2.0}


def test_shapes_of_the_last_micro_batch(root: Path) -> None:
    batches = Batches(open_train(root), context_length=T, sequences_per_step=12, micro_batch=5, seed=3, prefetch=0)
    assert [tuple(b.inputs.shape) for b in batches.step(0)] == [(5, T), (5, T), (2, T)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 8}, "trained with seed 7, this run has 8"),
        ({"context_length": 8}, "context_length 16"),
        ({"sequences_per_step": 24}, "sequences per step of 12"),
    ],
)
def test_a_checkpoint_of_another_order_is_refused(root: Path, change: dict[str, int], words: str) -> None:
    options = {"context_length": T, "sequences_per_step": S, "micro_batch": 4, "seed": 7} | change
    with pytest.raises(UserError, match=words):
        open_batches(data(root), state=state_at(data(root), 5), **options)


def test_a_checkpoint_of_other_data_is_refused(root: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "made", {"a": random_docs(9, 200), "b": random_docs(8, 60)}, shard_tokens=500)
    state = {**state_at(data(root), 5), "shards": {"train": 1, "held_out": 0}}
    with pytest.raises(UserError, match="trained with data"):
        open_batches(
            data(tmp_path / "made"), context_length=T, sequences_per_step=S, micro_batch=4, seed=7, state=state
        )


def test_a_set_that_grew_goes_on_as_it_was(tmp_path: Path) -> None:
    """Training may begin while preparation goes on: the shards of then stay the set of that run."""
    docs = random_docs(4, 200)
    manifest = write_set(tmp_path / "made", {"a": docs}, shard_tokens=400)
    config = data(tmp_path / "made", sources=(SourceConfig(name="a", path="x.jsonl"),))
    manifest.prefix({"train": 3, "held_out": 0}).save(tmp_path / "made")
    before, state = read(config, range(10)), state_at(config, 4)
    manifest.save(tmp_path / "made")
    assert (read(config, range(4, 10), state=state) == before[4 * S :]).all()
    assert (read(config, range(10)) != before).any()


def test_mixture_proportions_arrive_in_the_batches(root: Path) -> None:
    tokens = open_train(root)
    batches = open_batches(mixed(root), context_length=T, sequences_per_step=1024, micro_batch=1024, seed=0)
    ids = batches.sample_ids(3)
    share = (ids >= tokens.pool_samples(T)[0]).mean()
    assert share == pytest.approx(0.7, abs=1 / 1024)
    epochs = batches.epochs(1)
    assert epochs["b"] == pytest.approx(717 / tokens.pool_samples(T)[1])
    batches.close()


@pytest.mark.parametrize("kind", ["one source", "mixture"])
def test_each_end_of_a_pass_is_told_once(root: Path, kind: str) -> None:
    config = mixed(root) if kind == "mixture" else data(root)
    batches = open_batches(config, context_length=T, sequences_per_step=S, micro_batch=4, seed=7)
    told: Counter[str] = Counter()
    for step in range(1, 200):
        for source, passes in batches.ended_passes(step).items():
            assert passes == int(batches.epochs(step)[source])
            told[source] = passes
    assert told == {source: int(passes) for source, passes in batches.epochs(199).items() if passes >= 1}
    assert max(told.values()) > 1
    batches.close()


def test_repeats_are_refused_when_asked(root: Path) -> None:
    options = {"context_length": T, "sequences_per_step": S, "micro_batch": 4, "seed": 7}
    steps = open_train(root).num_samples(T) // S
    open_batches(data(root, repeat=False), total_steps=steps, **options).close()
    with pytest.raises(UserError, match=r"steps read train 1\.\d+ times, and data.repeat is false"):
        open_batches(data(root, repeat=False), total_steps=steps + 1, **options)


def test_skipped_steps_are_left_out_and_remembered(root: Path) -> None:
    options = {"context_length": T, "sequences_per_step": S, "micro_batch": S, "seed": 7}
    plain = open_batches(data(root), **options)
    skipping = open_batches(data(root), state=plain.state(3), skip_steps=((4, 6),), **options)
    for step, expected in ((3, 3), (4, 6), (5, 7)):
        assert (tokens_of(skipping.step(step)) == tokens_of(plain.step(expected))).all()
    later = open_batches(data(root), state=skipping.state(8), **options)
    assert (tokens_of(later.step(8)) == tokens_of(plain.step(10))).all()
    with pytest.raises(UserError, match="steps 2:4 cannot be skipped: the checkpoint at step 8"):
        open_batches(data(root), state=skipping.state(8), skip_steps=((2, 4),), **options)
    for batches in (plain, skipping, later):
        batches.close()


def test_packed_batches_hold_every_pair_of_every_document_once(root: Path) -> None:
    """Also that of its first token, predicted from an end token."""
    docs = [*random_docs(1, 120), *random_docs(2, 60)]
    batches = open_batches(
        data(root, packing="best_fit"), context_length=T, sequences_per_step=1, micro_batch=1, seed=1
    )
    found = []
    for step in range(batches.num_samples):
        (batch,) = batches.step(step)
        assert batch.weights is not None and batch.documents is not None
        used = batch.weights[0] > 0
        for document in batch.documents[0][used].unique():
            mine = (batch.documents[0] == document) & used
            assert (batch.inputs[0][mine][1:] == batch.targets[0][mine][:-1]).all()
        found += list(zip(batch.inputs[0][used].tolist(), batch.targets[0][used].tolist(), strict=True))
    expected = [pair for doc in docs for pair in zip([EOS, *doc], [*doc, EOS], strict=True)]
    assert sorted(found) == sorted(expected)
    batches.close()


def test_an_older_packing_on_disk_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "made", {"a": random_docs(1, 20)})
    (tmp_path / "made" / "packing").mkdir()
    for name in ("begins", "lengths", "firsts", "pools"):
        np.save(tmp_path / f"made/packing/{manifest.data_hash}-train-{T}-{name}.npy", np.zeros(3, np.int64))
    config = data(tmp_path / "made", packing="best_fit", sources=(SourceConfig(name="a", path="x.jsonl"),))
    for _ in range(2):  # packed, then read from disk
        batches = open_batches(config, context_length=T, sequences_per_step=1, micro_batch=1, seed=1)
        assert sum(int(batch.weights.sum()) for step in range(batches.num_samples) for batch in batches.step(step)) == (
            manifest.tokens("train")
        )
        batches.close()


@pytest.mark.parametrize("name", ["begins", "lengths", "starts", "firsts", "pools"])
def test_a_damaged_packing_on_disk_is_made_anew(tmp_path: Path, name: str) -> None:
    """A flipped bit in one rank's view would have it train on other targets than its peers."""
    write_set(tmp_path / "made", {"a": random_docs(1, 20)})
    config = data(tmp_path / "made", packing="best_fit", sources=(SourceConfig(name="a", path="x.jsonl"),))

    def targets() -> list[list[int]]:
        batches = open_batches(config, context_length=T, sequences_per_step=1, micro_batch=1, seed=1)
        found = [batch.targets[0].tolist() for step in range(batches.num_samples) for batch in batches.step(step)]
        batches.close()
        return found

    expected = targets()
    (kept,) = (tmp_path / "made" / "packing").glob(f"*-{name}.npy")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert targets() == expected
    kept.write_bytes(content[:-3])
    assert targets() == expected


@given(tokens=st.integers(1, 2000), micro=st.integers(1, 9), dp=st.integers(1, 5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_held_out_sequences_come_once_over_all_ranks(root: Path, tokens: int, micro: int, dp: int) -> None:
    """And every rank gets as many batches of the same shape, so that no collective waits for ever."""
    split = TokenSet.open(root, "held_out")
    ranks = [list(held_out(split, T, tokens, micro, rank, dp)) for rank in range(dp)]
    assert len({len(batches) for batches in ranks}) == 1
    assert {tuple(b.inputs.shape) for batches in ranks for b in batches} == {(micro, T)}
    rows = [
        tuple(row.tolist())
        for batches in ranks
        for b in batches
        for row, weight in zip(b.targets, b.weights, strict=True)
        if weight.all()
    ]
    count = min(split.num_samples(T), -(-tokens // T))
    alone = [b.targets for b in held_out(split, T, tokens, count)]
    assert sorted(rows) == sorted(tuple(row.tolist()) for b in alone for row in b) and len(rows) == count


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    """A held-out split of two sources in which every token but the end token occurs once."""
    path = tmp_path_factory.mktemp("data") / "made"
    cuts = np.sort(np.random.default_rng(5).choice(np.arange(1, 990), 40, replace=False))
    docs = [part.tolist() for part in np.split(np.arange(990), cuts)]
    write_set(path, {"a": [[1]]}, held_out=docs[:25], shard_tokens=100)
    other = write_set(path.parent / "other", {"b": [[1]]}, held_out=docs[25:], shard_tokens=100)
    manifest = Manifest.open(path)
    for shard in other.splits["held_out"]:
        for suffix in (".bin", ".docs", ".xxh"):
            (path / (shard.file + suffix)).write_bytes((path.parent / "other" / (shard.file + suffix)).read_bytes())
    manifest.splits["held_out"].extend(other.splits["held_out"])
    manifest.save(path)
    return TokenSet.open(path, "held_out")


EVALUATED = {"plain": {}, "masked": {"documents": True}, "packed": {"documents": True, "packed": True}}


@given(tokens=st.integers(1, 1200), micro=st.integers(1, 9), dp=st.integers(1, 3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_held_out_targets_are_the_same_whatever_the_packing(
    told_apart: TokenSet, tokens: int, micro: int, dp: int
) -> None:
    found = {}
    for name, options in EVALUATED.items():
        batches = [b for rank in range(dp) for b in held_out(told_apart, T, tokens, micro, rank, dp, **options)]
        found[name] = sorted(torch.cat([b.targets[b.weights > 0] for b in batches]).tolist())
    assert found["plain"] == found["masked"] == found["packed"]
    assert len(found["plain"]) == T * min(told_apart.num_samples(T), -(-tokens // T))


@pytest.mark.parametrize("name", ["masked", "packed"])
def test_each_held_out_target_sees_what_training_shows(told_apart: TokenSet, name: str) -> None:
    """Nothing of another document; an end token before its own first token; packed: all of it that fits."""
    begins = np.concatenate([first + np.concatenate([[0], ends[:-1]]) for first, ends in told_apart.pool_documents()])
    text = told_apart.read(np.array([0]), int(told_apart.manifest.tokens("held_out")))[0]
    place = {int(token): k for k, token in enumerate(text) if token != EOS}
    starts = 0
    for batch in held_out(told_apart, T, 10**6, 4, **EVALUATED[name]):
        for row, column in zip(*np.nonzero(batch.weights.numpy()), strict=True):
            target = int(batch.targets[row, column])
            if target == EOS:
                continue
            begin = int(begins[np.searchsorted(begins, place[target], side="right") - 1])
            seen = batch.inputs[row, : column + 1][batch.documents[row, : column + 1] == batch.documents[row, column]]
            expected = [EOS, *text[begin : place[target]].tolist()]
            assert seen.tolist() == expected[-len(seen) :]
            if name == "packed":
                assert len(seen) == (len(expected) - 1) % T + 1
            starts += len(expected) == 1
    assert starts >= len(begins) - 2  # the first token of a stream is no target


def test_a_split_shorter_than_a_sequence_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="fewer than one sequence of 100000"):
        next(held_out(TokenSet.open(root, "held_out"), 100_000, 10, 1))


def test_a_held_out_set_that_is_too_short_is_found_before_training(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "made", {"a": random_docs(1, 50)}, held_out=random_docs(2, 50))
    other = write_set(tmp_path / "other", {"b": random_docs(1, 50)}, held_out=[[1, 2, 3]]).splits["held_out"]
    manifest.splits["held_out"].extend(other)
    config = data(tmp_path / "made")
    assert evaluation_sets(config, manifest, T) == (["held_out", "held_out:a"], ["held_out:b"])
    manifest.splits["wiki"] = other
    with pytest.raises(UserError, match=r"split 'wiki' of 'made' has 4 tokens, fewer than one sequence of"):
        evaluation_sets(config, manifest, T)


def test_documents_reach_the_batch(root: Path) -> None:
    batches = Batches(
        open_train(root), context_length=T, sequences_per_step=40, micro_batch=40, seed=0, documents=True, prefetch=0
    )
    (batch,) = batches.step(0)
    assert batch.documents is not None and batch.documents.dtype == torch.int32
    begun = (batch.inputs == EOS).int()  # an end token belongs to the document that it begins
    begun[:, 0] = 0
    assert begun.sum() > 0 and (batch.documents == begun.cumsum(1)).all()


def test_documents_are_masked_where_asked(root: Path) -> None:
    options = {"context_length": T, "sequences_per_step": S, "micro_batch": 4, "seed": 7}
    for mask in (False, True):
        batches = open_batches(data(root, document_mask=mask), **options)
        (evaluated, *_) = held_out(TokenSet.open(root, "held_out"), T, 100, 4, documents=mask)
        for batch in (*batches.step(0), evaluated):
            assert (batch.documents is not None) == mask
        batches.close()
