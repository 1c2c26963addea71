"""`escala evaluate` on a word-level set, as a user runs it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from tests.e2e.asked import asked
from tests.e2e.test_sample import escala
from trainer.contract.run_dir import RunDir

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of some steps on words, with a test set of 121 tokens."""
    place = tmp_path_factory.mktemp("words")
    (place / "train.txt").write_text("".join(f"the word {k % 7} of a <unk> line\n\n" for k in range(300)))
    (place / "test.txt").write_text("the word of another line\n" * 20 + "\n")
    config = {
        "name": "words", "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16},
        "data": {
            "name": "words", "held_out_fraction": 0, "tokenizer": {"kind": "word"},
            "sources": [{"path": "train.txt", "documents_are": "files"}],
            "held_out_sets": [{"name": "test", "path": "test.txt", "documents_are": "files"}],
        },
        "batch": {"tokens_per_step": 256}, "steps": 4, "tracking": {"wandb": "disabled"},
    }  # fmt: skip
    (place / "run.yaml").write_text(yaml.safe_dump(config))
    trained = escala(place, "train", "run.yaml")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    return RunDir(place / "runs" / "words")


def test_every_token_of_the_test_set_is_scored(run: RunDir) -> None:
    place = run.root.parents[1]
    found = {}
    for stride in (16, 4):
        words = ["--split", "test", "--stride", str(stride), "--out", "scored.json", "--json"]
        done = asked(place, "evaluate", "runs/words", *words)
        assert done.returncode == 0, done.stderr
        found[stride] = json.loads(done.stdout)
        assert json.loads((place / "scored.json").read_text()) == found[stride]
        assert found[stride]["tokens"] == found[stride]["words"] == 121
        assert found[stride]["word_perplexity"] == pytest.approx(math.exp(found[stride]["loss"]))
        assert sum(bucket["tokens"] for bucket in found[stride]["by_position"]) == 121
    assert found[16]["by_position"][0]["tokens"] == 8 and found[4]["by_position"][0]["tokens"] == 1
    cached = json.loads(asked(place, "evaluate", "runs/words", "--split", "test", "--cache", "50", "--json").stdout)
    assert cached["loss"] < found[16]["loss"], "the lines repeat, and the model has hardly learned"


def test_a_table_is_printed(run: RunDir) -> None:
    done = escala(run.root.parents[1], "evaluate", "runs/words", "--split", "test", "--tokens", "50")
    assert done.returncode == 0 and "50 tokens, 50 words and line ends; windows of 16, 16 apart" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "tset"], "no split 'tset' (did you mean 'test'?)"),
        (["--split", "held_out"], "has no tokens in 'held_out'"),
        (["--split", "test", "--carry-state"], "the state of a transformer holds at most 16 tokens"),
        (["--split", "test", "--context", "32"], "windows of 32 are longer than the model's context of 16"),
        (["--split", "test", "--stride", "17"], "a stride of 17 leaves out tokens between windows of 16"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused(run: RunDir, words: list[str], message: str) -> None:
    done = asked(run.root.parents[1], "evaluate", "runs/words", *words)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_words_are_sampled_over_line_ends(run: RunDir, tmp_path: Path) -> None:
    done = asked(tmp_path, "sample", str(run.root), "--prompt", "the word", "--tokens", "40", "--json")
    (found,) = map(json.loads, done.stdout.splitlines())
    assert found["continuations"][0]["tokens"] == 40 and found["texts"][0].startswith("the word")
