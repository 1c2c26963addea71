"""Sampling from a run: wherever one stands, wherever its data are, with whatever numbers and prompts come."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.e2e.asked import asked
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import RunDir
from trainer.observe.samples import Samples
from trainer.observe.wandb_run import values_of

pytestmark = pytest.mark.e2e


def escala(cwd: Path, *words: str | bytes) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "launch", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of some steps over a set below a URL. One of its sources is shorter than a sequence."""
    place = tmp_path_factory.mktemp("place")
    (place / "long.jsonl").write_text("".join(json.dumps({"text": f"line {k} of a text"}) + "\n" for k in range(300)))
    (place / "short.jsonl").write_text(json.dumps({"text": "too short"}) + "\n")
    config = {
        "name": "tiny",
        "model": {"d_model": 32, "n_layers": 1, "n_heads": 2, "context_length": 64},
        "data": {
            "name": "set", "sources": [{"path": "long.jsonl"}, {"path": "short.jsonl"}],
            "tokenizer": {"kind": "bpe", "vocab_size": 284}, "held_out_fraction": 0.2,
        },
        "batch": {"tokens_per_step": 512}, "steps": 4, "tracking": {"wandb": "disabled"},
    }  # fmt: skip
    (place / "run.yaml").write_text(yaml.safe_dump(config))
    prepared = escala(place, "data", "prepare", "run.yaml")
    assert prepared.returncode == 0, prepared.stderr
    trained = escala(place, "train", "run.yaml", "--set", f"data.root=file://{place}/data")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "warning: nothing of source 'short' is read" in trained.stdout
    return RunDir(place / "runs" / "tiny")


def test_a_source_of_which_nothing_is_read_is_named(run: RunDir) -> None:
    (event,) = (row for row in rows_of(run.events) if row["event"] == "source_left_out")
    assert event["source"] == "short" and event["tokens"] > 0
    assert json.loads(run.result.read_text())["sources_left_out"] == {"short": event["tokens"]}


def test_bits_per_byte_come_from_the_bytes_of_the_evaluated_tokens(run: RunDir) -> None:
    (evaluation, *_) = json.loads(run.result.read_text())["evaluations"]
    assert evaluation["evaluated_bytes"] > 0 and evaluation["bits_per_byte"] > 0


def test_a_run_carries_its_tokenizer(run: RunDir, tmp_path: Path) -> None:
    """Moved away from its data, to be sampled from another directory."""
    shutil.copytree(run.root, tmp_path / "moved")
    done = escala(tmp_path, "sample", "moved", "--tokens", "8", "--count", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["texts"]) == 2


def test_each_prompt_is_a_line_of_json(run: RunDir) -> None:
    (run.root / "prompts.txt").write_text("line\nof a text é\n", encoding="utf-8")
    words = ["--prompts", "prompts.txt", "--decoder", "beam", "--count", "2", "--tokens", "5", "--json"]
    done = asked(run.root, "sample", ".", *words)
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["prompt"], second["prompt"]) == ("line", "of a text é")
    for found in (first, second):
        scores = [one["logprob"] for one in found["continuations"]]
        assert len(scores) == 2 and scores == sorted(scores, reverse=True) and scores[0] < 0


def test_text_comes_as_it_is_and_a_long_prompt_is_told(run: RunDir) -> None:
    prompt = "é" * 70
    done = asked(run.root, "sample", ".", "--prompt", prompt, "--tokens", "4", "--stop", "never")
    assert done.returncode == 0 and done.stdout.startswith(prompt)
    assert "tokens and the model's context 64: its first" in done.stderr
    assert "[4 tokens, log-probability -" in done.stderr


def test_a_comparison_names_the_most_probable(run: RunDir) -> None:
    done = asked(run.root, "sample", ".", "--prompt", "line", "--tokens", "2", "--compare")
    assert done.returncode == 0, done.stderr
    assert "exhaustive" in done.stdout and "most probable: " in done.stdout
    (row,) = map(json.loads, asked(run.root, "sample", ".", "--tokens", "2", "--compare", "--json").stdout.splitlines())
    best = max(one["logprob"] for one in row["decoders"])
    assert next(one for one in row["decoders"] if one["name"] == "exhaustive")["logprob"] == pytest.approx(
        best, abs=1e-4
    )


def test_runs_of_earlier_versions_take_that_of_their_set(run: RunDir, tmp_path: Path) -> None:
    bare = shutil.copytree(run.root, tmp_path / "above" / "runs" / "bare")
    shutil.rmtree(bare / "tokenizer")
    assert asked(tmp_path, "sample", str(bare), "--tokens", "3").returncode == 0, "the URL in its configuration"
    values = yaml.safe_load((bare / "config.yaml").read_text())
    values["data"]["root"] = "data"
    (bare / "config.yaml").write_text(yaml.safe_dump(values))
    refused = asked(tmp_path, "sample", str(bare), "--tokens", "3")
    assert refused.returncode == 2 and "there is no tokenizer in" in refused.stderr
    shutil.copytree(run.root.parents[1] / "data", tmp_path / "above" / "data")
    assert asked(tmp_path, "sample", str(bare), "--tokens", "3").returncode == 0, "data beside runs"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature", "nan"], "'temperature': input should be a finite number"),
        (["--temperature", "1e-40"], "'temperature': take 0 for greedy decoding"),
        (["--top-p", "2"], "'top_p': input should be less than or equal to 1 (given: 2.0)"),
        (["--top-k", "0"], "'top_k': input should be greater than or equal to 1 (given: 0)"),
        (["--decoder", "beam", "--width", "0"], "'width': input should be greater than or equal to 1"),
        (["--decoder", "greedy", "--width", "3"], "width has no effect on the decoder greedy"),
        (["--decoder", "exhaustive"], "sequences, more than 33,554,432: lower tokens to"),
        (["--compare", "--width", "3"], "--width has no effect with --compare"),
        (["--compare", "--prompt", "a", "--prompt", "b"], "a comparison takes one prompt, not 2"),
        (["--seed", str(2**64)], "'seed': input should be less than"),
        (["--prompt", b"caf\xe9"], "the prompt is not UTF-8 at character 4"),
    ],
)
def test_what_cannot_be_used_is_refused(run: RunDir, words: list[str | bytes], message: str) -> None:
    """Words that are no text go to a process of their own, as from a shell."""
    done = (asked if all(isinstance(word, str) for word in words) else escala)(run.root, "sample", ".", *words)  # type: ignore[operator]
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_checkpoint_continues_fixed_prompts(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `escala sample` says greedily, written to samples.jsonl for W&B."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    samples = Samples(run, ["line 1", "a text"])
    samples.after([{"event": "saved", "step": 4}])
    rows = samples.rows(wait=True)
    said = asked(run.root, "sample", ".", "--prompt", "line 1", "--prompt", "a text", "--decoder", "greedy", "--json")
    assert [row["text"] for row in rows] == [json.loads(line)["texts"][0] for line in said.stdout.splitlines()]
    assert [(row["step"], row["prompt"]) for row in rows] == [(4, "line 1"), (4, "a text")]
    assert rows == list(rows_of(run.root / "samples.jsonl")) and samples.rows(wait=True) == []
    assert values_of(rows[0], 6.0) == {"sample/0/text": rows[0]["text"], "step": 4}
