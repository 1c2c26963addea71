"""A run's name is the hash of everything that determines its result, resolved, and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import small_manifest, write
from tests.unit.toy_family import ToyConfig
from trainer.config.base import Section
from trainer.config.identity import Determines, holds_sections, said
from trainer.config.load import run_from_values
from trainer.config.model import config_class
from trainer.config.run import RunConfig
from trainer.models.mixers.registry import MIXERS
from trainer.models.registry import FAMILIES
from trainer.plan.identity import lasting_values, result_hash, result_values

SOURCE = {"path": "a.txt", "name": "a", "weight": 1.0}
RUN: dict[str, Any] = {
    "model": {"d_model": 64, "n_layers": 2, "n_heads": 4, "context_length": 64},
    "data": {"sources": [SOURCE], "stages": [{"from_tokens": 100, "weights": {"a": 1.0}}]},
    "batch": {"tokens_per_step": 1024},
    "tokens": 10240,
    "parallel": {"tensor": 2},
}
# Every field of the schema with another value than it has in RUN.
OTHER: dict[str, Any] = {
    "name": "b", "seed": 1, "tokens": 20480, "skip_steps": ["3:5"], "precision": "bf16", "device": "cpu",
    "model.d_model": 128, "model.n_layers": 3, "model.n_heads": 2, "model.n_kv_heads": 2, "model.d_ff": 96,
    "model.vocab_size": 999, "model.vocab_multiple_of": 64, "model.context_length": 128,
    "model.tied_embeddings": False, "model.dropout": 0.1, "model.init_std": 0.5, "model.position": "learned",
    "model.rotary_base": 500.0, "model.norm": "layernorm", "model.norm_eps": 1e-3, "model.mlp": "gelu",
    "model.norm_placement": "post", "model.residual_scale": 0.5, "model.init": "xavier", "model.logit_softcap": 5.0,
    "model.pattern": ["gated_conv", "attention"], "model.qk_norm": True, "model.bias": True, "model.fused_qkv": False,
    "data.name": "b", "data.root": "elsewhere", "data.begin": "published", "data.held_out_fraction": 0.2,
    "data.shard_tokens": 2048, "data.shuffle_window": 4096, "data.packing": "best_fit", "data.document_mask": True,
    "data.seed": 5,
    "data.repeat": False, "data.cache.directory": "c", "data.cache.max_bytes": 5, "data.cache.ahead_steps": 1,
    "data.stages.0.from_tokens": 200, "data.stages.0.weights": {"a": 2.0},
    "data.tokenizer.kind": "unigram", "data.tokenizer.vocab_size": 999, "data.tokenizer.byte_fallback": False,
    "data.tokenizer.sample_bytes": 999,
    "data.sources.0.path": "b.txt", "data.sources.0.format": "text", "data.sources.0.subset": "s",
    "data.sources.0.split": "s", "data.sources.0.column": "c", "data.sources.0.documents_are": "lines",
    "data.sources.0.weight": 2.0, "data.sources.0.max_bytes": 9, "data.sources.0.min_chars": 9,
    "data.sources.0.max_chars": 9, "data.sources.0.matching": "x", "data.sources.0.parts": 3,
    "data.sources.0.storage": {"anon": True}, "data.sources.0.stall_seconds": 9.0, "data.sources.0.retries": 1,
    "batch.tokens_per_step": 2048, "batch.micro_batch": 2,
    "optim.name": "sgd", "optim.lr": 0.5, "optim.lr_factor": 0.5, "optim.recipe_reach": 20,
    "optim.betas": [0.5, 0.6], "optim.eps": 1e-5,
    "optim.decay_follows_lr": False,
    "optim.weight_decay": 0.5, "optim.label_smoothing": 0.5, "optim.z_loss": 0.5, "optim.clip_norm": 0.5,
    "schedule.kind": "linear", "schedule.warmup": "3 steps", "schedule.decay": "3 steps", "schedule.final_ratio": 0.5,
    "schedule.cooldown": "1-sqrt",
    "parallel.engine": "fsdp", "parallel.data": 4, "parallel.tensor": 1, "parallel.sequence": 2,
    "parallel.zero_stage": 2, "parallel.offload": "optimizer", "parallel.recompute": "full", "parallel.compile": True,
    "parallel.overlap": True,
    "parallel.timeout_seconds": 9.0,
    "checkpoint.every": "3 steps", "checkpoint.minutes": 3.0, "checkpoint.keep_last": 3,
    "checkpoint.keep_every": "3 steps", "checkpoint.keep_at": [3], "checkpoint.asynchronous": False,
    "evaluation.every": "3 steps", "evaluation.tokens": 999, "evaluation.position_buckets": 3,
    "tracking.log_every": "3 steps", "tracking.wandb": "disabled", "tracking.project": "p", "tracking.group": "g",
    "tracking.tags": ["t"], "tracking.tensorboard": True, "tracking.norms_every": "3 steps",
    "tracking.prompts": ["Once"], "tracking.profile_steps": ["3:5"],
    "guard.non_finite": "skip", "guard.max_skips": 3, "guard.watchdog_seconds": 9.0,
    "guard.spike": "skip", "guard.sigma": 9.0, "guard.window": 50, "guard.patience": 1, "guard.margin": 0,
    "guard.max_rollbacks": 1,
}  # fmt: skip
# Fields with no value of their own to change to: their tests are below, by these names.
ELSEWHERE = {
    "steps", "model.family", "model.size", "model.mixer", "checkpoint.load", "checkpoint.source", "data.sources.0.name",
    "data.tokenizer.path", "data.tokenizer.eos", "data.order", "model.carry", "model.memory", "tracking.activations",
    "optim.parametrization", "optim.muon_lr_factor", "optim.muon_weight_decay",
}  # fmt: skip


def run(*assignments: str, **values: Any) -> RunConfig:
    """Read as Escala wrote it: fields are changed one at a time, also where that has no effect without another."""
    return run_from_values({**RUN, **values}, "test", assignments, written=True)


def with_value(*keys: str) -> RunConfig:
    return run(*(f"{key}={json.dumps(OTHER[key])}" for key in keys))


def name_of(config: RunConfig) -> str:
    return result_hash(config, gpu=False)


def sections(section: type[Section], found: set[type[Section]]) -> set[type[Section]]:
    """Return a section and all below it."""
    found.add(section)
    for field in section.model_fields.values():
        for inner in _sections_in(field.annotation):
            if inner not in found:
                sections(inner, found)
    return found


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections_in(part)]


def leaves(section: Section, prefix: str = "") -> Iterator[tuple[str, Determines]]:
    """Yield dotted key and mark of every field that holds a value, in the first entry of a list too."""
    for name, field in type(section).model_fields.items():
        if holds_sections(field.annotation):
            value = getattr(section, name)
            for inner in value[:1] if isinstance(value, tuple) else [value] if value is not None else []:
                yield from leaves(inner, f"{prefix}{name}.0." if isinstance(value, tuple) else f"{prefix}{name}.")
        else:
            mark = said(field)
            assert mark is not None
            yield prefix + name, mark


SAYS = dict(leaves(run()))
EXECUTION = sorted(key for key in OTHER if SAYS.get(key) is Determines.NOTHING)


@pytest.mark.parametrize(
    "section",
    sorted(
        sections(RunConfig, set())
        | {config_class(f) for f in FAMILIES}
        | {mixer.cost_class.Options for mixer in MIXERS.values()}
        | {ToyConfig},
        key=lambda s: s.__name__,
    ),
)
def test_every_field_says_what_it_determines(section: type[Section]) -> None:
    silent = [n for n, f in section.model_fields.items() if said(f) is None and not holds_sections(f.annotation)]
    assert silent == [], f"{section.__name__}: write Tokens[...], Result[...] or Execution[...] around their types"


def test_every_field_is_tried() -> None:
    assert {*OTHER, *ELSEWHERE} == SAYS.keys(), "OTHER wants another value for each field"


@pytest.mark.parametrize("key", OTHER)
def test_a_field_changes_the_name_just_when_it_says_so(key: str) -> None:
    changed = name_of(with_value(key)) != name_of(run())
    assert changed == (SAYS[key] >= Determines.RESULT)


@settings(deadline=None)
@given(st.sets(st.sampled_from([key for key in EXECUTION if not key.startswith("parallel.")])))
def test_no_set_of_other_fields_changes_the_name(keys: set[str]) -> None:
    assert name_of(with_value(*sorted(keys))) == name_of(run())


def test_what_auto_comes_to_is_in_the_name() -> None:
    config = run()
    assert result_hash(config, gpu=True) != result_hash(config, gpu=False)
    assert result_hash(config, gpu=True) == result_hash(run("precision=bf16"), gpu=True)
    assert result_hash(run("device=cpu"), gpu=True) == result_hash(run("precision=fp32"), gpu=False)
    rate = result_values(config, gpu=False)["optim"]["lr"]
    assert isinstance(rate, float) and name_of(run(f"optim.lr={rate!r}")) == name_of(config)
    half = run("optim.lr_factor=0.5")
    assert name_of(run(f"optim.lr={result_values(half, gpu=False)['optim']['lr']!r}")) == name_of(half)


def test_a_length_and_defaults_that_follow_are_spelt_out() -> None:
    steps = {key: value for key, value in RUN.items() if key != "tokens"}
    assert name_of(run_from_values({**steps, "steps": 10}, "test")) == name_of(run())
    assert name_of(run("tokens=10239")) == name_of(run())  # whole steps
    assert name_of(run("model.n_kv_heads=4", "model.d_ff=176")) == name_of(run())


def test_a_size_is_the_shape_that_it_stands_for() -> None:
    sized = run_from_values({**RUN, "model": {"size": "12k"}}, "test").model
    shape = {key: getattr(sized, key) for key in ("d_model", "n_layers", "n_heads")}
    by_size, by_shape = (run_from_values({**RUN, "model": m}, "test") for m in ({"size": "12k"}, shape))
    assert name_of(by_size) == name_of(by_shape)


def test_a_mixer_enters_with_its_options_and_the_default_does_not() -> None:
    assert "mixer" not in result_values(run(), gpu=False)["model"], (
        "runs from before there was a choice keep their name"
    )
    assert name_of(run("model.mixer=attention")) == name_of(run("model.pattern=[attention]")) == name_of(run())
    plain = {"d_model": 64, "n_layers": 4, "context_length": 64}
    mixers: list[dict[str, Any]] = [
        {"mixer": "gated_conv"}, {"mixer": {"gated_conv": {"kernel": 3}}},
        {"pattern": ["gated_conv", {"gated_conv": {"kernel": 3}}]},
    ]  # fmt: skip
    names = [name_of(run_from_values({**RUN, "model": {**plain, **m}}, "test")) for m in mixers]
    assert len({*names, name_of(run())}) == 4
    for spelt in ({"mixer": {"gated_conv": {"kernel": 4}}}, {"pattern": ["gated_conv", "gated_conv"]}):
        assert name_of(run_from_values({**RUN, "model": {**plain, **spelt}}, "test")) == names[0]


def test_bands_of_words_enter_and_none_do_not() -> None:
    assert "adaptive" not in result_values(run(), gpu=False)["model"], "runs from before keep their name"
    names = [
        name_of(run(f"model.adaptive={{cutoffs: {cutoffs}, input: true}}")) for cutoffs in ([50], [50, 80], [60])
    ]  # fmt: skip
    assert len({*names, name_of(run())}) == 4


def test_lanes_and_what_they_carry_enter_and_the_defaults_do_not() -> None:
    values = result_values(run(), gpu=False)
    assert not {"carry", "memory"} & values["model"].keys() and "order" not in values["data"], (
        "old runs keep their name"
    )
    streams = {"data": {"order": "streams"}}
    models = [{}, {"carry": True}, {"carry": True, "memory": 32}, {"carry": True, "memory": 48}]
    configs = [run_from_values({**RUN, **streams, "model": {**RUN["model"], **model}}, "test") for model in models]
    assert len({name_of(config) for config in [run(data={}), *configs]}) == 5


def test_the_vocabulary_enters_as_it_is_stated_whether_data_are_prepared_or_not() -> None:
    assert result_values(run(), gpu=False)["model"]["vocab_size"] is None


def test_base_horizon_and_settings_of_muon_enter_and_none_do_not() -> None:
    new = {"parametrization", "base", "lr_horizon", "decay_follows_lr", "muon_lr_factor", "muon_weight_decay"}
    values = result_values(run(), gpu=False)
    assert not new & values["optim"].keys() and "transfer" not in values["model"], "old runs keep their name"
    optims: list[dict[str, Any]] = [
        {}, {"parametrization": "mup", "base": {"d_model": 32}}, {"parametrization": "mup", "base": {"d_model": 16}},
        {"parametrization": "completep", "base": {"d_model": 32, "n_layers": 2}}, {"name": "muon"},
        {"lr_horizon": {"tokens": 100}}, {"name": "muon", "muon_lr_factor": 2},
        {"name": "muon", "muon_weight_decay": 0},
    ]  # fmt: skip
    names = [name_of(run_from_values({**RUN, "optim": {"lr": 1e-3, **optim}}, "test")) for optim in optims]
    assert len(set(names)) == len(optims)


def test_other_sources_and_tokenizers_are_other_runs() -> None:
    named = run(data={"sources": [{**SOURCE, "name": "b"}], "stages": []})
    tokenizers = [{"kind": "huggingface", "path": "t.json"}, {"kind": "huggingface", "path": "u.json"},
                  {"kind": "huggingface", "path": "t.json", "eos": "</s>"}]  # fmt: skip
    configs = [run(data={"sources": [SOURCE], "tokenizer": tokenizer}) for tokenizer in tokenizers]
    assert len({name_of(config) for config in [named, run(), *configs]}) == 5


def test_what_is_measured_is_no_part_of_a_run() -> None:
    measured = run('tracking.norms_every="3 steps"', "tracking.activations=true")
    assert name_of(measured) == name_of(run())


def warm(source: Path) -> RunConfig:
    return run("checkpoint.load=warm_start", f"checkpoint.source={source}")


def test_a_warm_start_enters_by_its_checkpoint(tmp_path: Path) -> None:
    for name in ("a", "b", "copy"):
        manifest = small_manifest(3)
        state = {**manifest.state, "of": "b" if name == "b" else "a"}
        write(tmp_path / name / "checkpoints", replace(manifest, state=state))
    a, b, copy = (warm(tmp_path / name) for name in ("a", "b", "copy"))
    assert len({name_of(run()), name_of(a), name_of(b)}) == 3
    assert name_of(copy) == name_of(a), "the same weights elsewhere are the same beginning"
    assert name_of(run("checkpoint.load=never", "checkpoint.source=x")) == name_of(run())
    write(tmp_path / "a" / "checkpoints", small_manifest(5))
    assert name_of(a) != name_of(copy), "the newest is taken"
    (tmp_path / "a" / "checkpoints" / "step_000000005" / "rank_00001.safetensors").unlink()
    assert name_of(a) == name_of(copy), "one without its files is passed over, as the start does"


def test_a_run_in_trouble_may_leave_steps_out_when_it_goes_on() -> None:
    mended = run('skip_steps=["3:5"]', "guard.non_finite=skip")
    assert lasting_values(mended, gpu=False) == lasting_values(run(), gpu=False)
    assert lasting_values(run("seed=1"), gpu=False) != lasting_values(run(), gpu=False)
