"""Loading, composition, overrides and their errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from trainer.config.base import Section
from trainer.config.conditional import Conditional
from trainer.config.load import dump, load_run, run_from_values
from trainer.config.run import RunConfig
from trainer.config.span import Span, parse_count, parse_span
from trainer.contract.errors import UserError
from trainer.plan.plan import Plan, make_plan

GIVEN = {  # of each setting that does something only beside another: a value, and one of the other's that lets it
    "guard.sigma": ("5", "spike=rollback"), "guard.window": ("50", "spike=stop"), "guard.patience": ("5", "spike=stop"),
    "guard.margin": ("5", "spike=rollback"), "guard.max_rollbacks": ("5", "spike=rollback"),
    "guard.max_skips": ("5", "non_finite=skip"), "checkpoint.keep_every": ("50%", "every=5%"),
    "checkpoint.source": ("x", "load=always"), "tracking.activations": ("true", "norms_every=5%"),
    "tracking.prompts": ("[a]", "wandb=offline"), "optim.eps": ("1e-6", "name=adamw"),
    "optim.muon_lr_factor": ("2", "name=muon"), "optim.muon_weight_decay": ("0.5", "name=muon"),
    "schedule.decay": ("30%", "kind=wsd"), "schedule.cooldown": ("1-sqrt", "kind=wsd"),
    "schedule.final_ratio": ("0.5", "kind=linear"), "data.shuffle_window": ("512", "order=shuffled"),
    "data.tokenizer.byte_fallback": ("false", "kind=unigram"), "data.tokenizer.sample_bytes": ("1M", "kind=bpe"),
}  # fmt: skip
WITHOUT = {  # what leaves them without effect, where the defaults do not
    "guard.sigma": "spike='off'", "guard.window": "spike='off'", "checkpoint.source": "load=never",
    "tracking.prompts": "wandb=disabled", "optim.eps": "name=sgd", "schedule.final_ratio": "kind=constant",
    "data.shuffle_window": "order=streams", "data.tokenizer.byte_fallback": "kind=word",
    "data.tokenizer.sample_bytes": "kind=word",
}  # fmt: skip
NEEDS_A_FILE = {"optim.recipe_reach", "optim.base"}  # tests/launch/test_sweep_tune.py, tests/unit/test_transfer.py

VALUES = {
    "model": {"size": "100k", "vocab_size": 512, "context_length": 128},
    "data": {"name": "x"},
    "batch": {"tokens_per_step": 2048},
    "tokens": "1M",
}


def run(*assignments: str, **changes: object) -> RunConfig:
    return run_from_values({**VALUES, **changes}, "test.yaml", assignments)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.n_layer=4", "unknown key 'model.n_layer' (did you mean 'n_layers'?)"),
        ("modle.n_layers=4", "unknown key 'modle' (did you mean 'model'?)"),
        ("optim.lr=fast", "'optim.lr"),
        ("parallel.zero_stage=4", "'parallel.zero_stage'"),
        ("schedule.warmup=100", "such as '500 steps', '20M tokens' or '5%'"),
        ("model.size=huge", "expected a number such as 32768"),
        ("model.size=7", "between 3000 and 2T"),
        ("model.n_heads=3", "d_model 64 is not a multiple of n_heads 3"),
        ("nonsense", "expected key=value"),
        ("batch.tokens_per_step=[", "not valid YAML"),
    ],
)
def test_a_bad_setting_is_one_clear_sentence(assignment: str, message: str):
    with pytest.raises(UserError) as error:
        run(assignment)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_replace_the_other_way_to_say_the_same():
    assert run("steps=7").tokens is None
    assert run("steps=7").steps == 7
    explicit = {"d_model": 64, "n_layers": 2, "n_heads": 2, "vocab_size": 8}
    assert run("model.size=1M", model=explicit).model.n_layers == 5


def test_both_lengths_are_refused():
    with pytest.raises(UserError, match="either as 'tokens' or as 'steps'"):
        run(steps=3)


def test_a_section_is_a_name_a_base_or_a_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "small.yaml").write_text("size: 100k\ncontext_length: 64\nvocab_size: 256\n")
    monkeypatch.setenv("ESCALA_CONFIGS", str(tmp_path))
    assert run(model="small").model.context_length == 64
    assert run(model={"base": "small", "context_length": 32}).model.context_length == 32
    assert run("model.context_length=16", model="small").model.context_length == 16
    with pytest.raises(UserError, match=r"no model 'smal' in .*did you mean 'small'"):
        run(model="smal")


def test_a_resolved_configuration_loads_to_itself(tmp_path: Path):
    config = run("optim.lr=0.01", "evaluation.every=10 steps")
    path = tmp_path / "config.yaml"
    path.write_text(dump(config))
    assert load_run(path) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "line 1"), ("- 1", "expected a mapping"), ("", "expected a mapping"), ("\x00", "not valid YAML")],
)
def test_a_corrupt_file_names_the_file(tmp_path: Path, text: str, message: str):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"run\.yaml") as error:
        load_run(path)
    assert message in str(error.value)


def test_a_missing_file_names_the_nearest(tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(VALUES))
    with pytest.raises(UserError, match=r"did you mean 'tiny\.yaml'"):
        load_run(tmp_path / "tyny.yaml")


@pytest.mark.parametrize(
    ("text", "count"), [("20M", 20_000_000), ("1.5B", 1_500_000_000), ("32_768", 32768), (7, 7), ("2e3", 2000)]
)
def test_counts(text: object, count: int):
    assert parse_count(text) == count


def test_spans_become_whole_steps():
    steps = {"tokens_per_step": 1000, "total_steps": 200}
    assert parse_span("5%").steps(**steps) == 10
    assert parse_span("2500 tokens").steps(**steps) == 3
    assert parse_span("1 step").steps(**steps) == 1
    assert str(Span(2.5, "%")) == "2.5%"


def test_a_plan_survives_its_file():
    plan = make_plan(run(), world=2, train_tokens=500_000)
    assert Plan.from_json(plan.to_json()) == plan
    assert (plan.steps, plan.tokens) == (489, 489 * 2048)
    assert plan.epochs == pytest.approx(2.003, abs=1e-3)


@pytest.mark.parametrize(
    ("assignments", "world", "message"),
    [
        (["batch.tokens_per_step=2000"], 2, "not a multiple of model.context_length 128: use 1920 or 2048"),
        ([], 3, "16 sequences per step"),
        (["parallel.tensor=2"], 3, "sequence 1 x tensor 2 = 2 does not divide the world of 3 ranks"),
        (["parallel.data=4"], 2, "= 4 ranks, but the world has 2"),
        (["parallel.tensor=8"], 8, "n_heads 4 is not a multiple of the tensor degree 8"),
        (["batch.micro_batch=3"], 1, "does not divide the 16 sequences"),
        (["steps=2", "schedule.warmup=5 steps"], 1, "warmup is 5 steps, but the run has only 2"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(assignments: list[str], world: int, message: str):
    with pytest.raises(UserError) as error:
        make_plan(run(*assignments), world=world)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.lr=nan", "'optim.lr': input should be a finite number or input should be 'auto' (given: 'nan')"),
        ("optim.lr=-1", "'optim.lr': input should be greater than 0 or input should be 'auto' (given: -1)"),
        ("optim.clip_norm=.inf", "'optim.clip_norm': input should be a finite number (given: inf)"),
        ("optim.betas=[0.9, 1]", "'optim.betas.1': input should be less than 1 (given: 1)"),
        ("data.sources=[{path: x, colum: y}]", "unknown key 'data.sources.0.colum' (did you mean 'column'?)"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_key(assignment: str, message: str):
    with pytest.raises(UserError) as error:
        run(assignment)
    assert message in str(error.value)
    assert "at least 1 item" not in str(error.value), "a wrong entry does not make its list short"


def test_a_number_in_a_key_is_a_place_in_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "two.yaml").write_text("sources: [{path: a.jsonl, column: body}, {path: b.jsonl}]\n")
    monkeypatch.setenv("ESCALA_CONFIGS", str(tmp_path))
    for data in ("two", {"base": "two"}, {"sources": [{"path": "a.jsonl", "column": "body"}, {"path": "b.jsonl"}]}):
        first, second = run("data.sources.0.min_chars=7", "data.sources.1.path=c.jsonl", data=data).data.sources
        assert (first.path, first.column, first.min_chars) == ("a.jsonl", "body", 7)
        assert (second.path, second.min_chars) == ("c.jsonl", 1)
    assert run("data.sources.0.min_chars=7", data={}).data.sources[0].min_chars == 7, "the default has one source"
    assert run("checkpoint.keep_at.1=30", checkpoint={"keep_at": [10, 20]}).checkpoint.keep_at == (10, 30)
    with pytest.raises(UserError, match=r"there is no sources\.2: sources has 2 entries, counted from 0"):
        run("data.sources.2.min_chars=1", data="two")
    with pytest.raises(UserError, match=r"there is no sources\.1: sources has 1 entries"):
        run("data.sources.1.min_chars=1", data={})
    with pytest.raises(
        UserError, match=r"sources is a list of 2 entries: sources\.0 is its first one, and sources\.path"
    ):
        run("data.sources.path=c.jsonl", data="two")
    with pytest.raises(UserError, match=r"sources\.-1 is none"):
        run("data.sources.-1.path=c.jsonl", data="two")


def test_numbers_stay_keys_of_mappings():
    stages = [{"from_tokens": 5, "weights": {"0": 1.0}}]
    sources = [{"path": "0.txt", "weight": 1}, {"path": "1.txt", "weight": 2}]
    config = run("data.stages.0.weights.1=0.5", data={"sources": sources, "stages": stages})
    assert config.data.stages[0].weights == {"0": 1.0, "1": 0.5}


def declared(section: Section, prefix: str = "") -> Iterator[tuple[str, Conditional]]:
    """Yield each setting of a configuration that does something only beside another, and the rule that says so."""
    for rule in section.conditional:
        yield from ((prefix + name, rule) for name in rule.names)
    for name in type(section).model_fields:
        if isinstance(inner := getattr(section, name), Section):
            yield from declared(inner, f"{prefix}{name}.")


def test_every_setting_that_needs_another_is_tried() -> None:
    rules = dict(declared(run()))
    assert rules.keys() == GIVEN.keys() | NEEDS_A_FILE


@pytest.mark.parametrize("key", GIVEN)
def test_a_setting_without_effect_is_refused_and_says_what_to_write(key: str) -> None:
    section, _, name = key.rpartition(".")
    value, condition = GIVEN[key]
    idle = [f"{key}={value}", *([f"{section}.{WITHOUT[key]}"] if key in WITHOUT else [])]
    with pytest.raises(UserError, match=rf"{section}': .*{name} ha(s|ve) no effect with.*: leave .* out, or set "):
        run(*idle)
    config = run(f"{key}={value}", f"{section}.{condition}")
    assert run_from_values(yaml.safe_load(dump(config)), "written") == config
    run_from_values(VALUES, "what Escala wrote is read as it is", idle, written=True)


def test_a_run_that_was_written_with_an_idle_setting_still_goes_on(tmp_path: Path) -> None:
    config = run_from_values(VALUES, "written before", ["guard.patience=5"], written=True)
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load_run(tmp_path / "config.yaml") == config
