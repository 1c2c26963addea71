"""Every command of the README is run, in the order in which it stands there; training ones as a dry run."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.asked import asked

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
ESCALA = [line for line in LINES if line.startswith("escala ")]
PIP = [line for line in LINES if line.startswith("pip ")]
MAKE = [line for line in LINES if line.startswith("make ")]
TRAINS = ("escala train", "escala sweep run")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh working directory with the configurations, a finished tiny run and a ladder of rows in a ledger.

    The text is shorter: preparing and scoring all of it takes half a minute.
    """
    place = tmp_path_factory.mktemp("readme")
    data = shutil.copytree(ROOT / "configs", place / "configs") / "data" / "quickstart.yaml"
    text = data.read_text()
    assert text.count("max_bytes: 12M") == 1
    data.write_text(text.replace("max_bytes: 12M", "max_bytes: 3M"))
    run(place, "escala train configs/run/tiny.yaml --set tokens=16384 --set evaluation.tokens=4096")
    write_ledger(place / "runs/quickstart/ledger.jsonl", kinds=("transformer", "lstm"), lengths=(8e5,))
    write_ledger(place / "runs/ladder/ledger.jsonl", kinds=("transformer",))
    return place


LENGTHS = (4e5, 8e5, 1.6e6, 3.2e6)


def write_ledger(path: Path, kinds: tuple[str, ...], lengths: tuple[float, ...] = LENGTHS) -> None:
    """Write the ledger of a grid of sizes and tokens for each kind of model, with losses of a known law."""
    from launch.sweep.ledger import ledger
    from launch.sweep.ledger.ledger import LedgerRow

    rows = []
    sizes = (12_000, 24_000, 50_000, 100_000)
    for k, (kind, n, tokens) in enumerate(itertools.product(kinds, sizes, lengths)):
        flops = 6.0 * n * tokens
        rows.append(
            LedgerRow(
                cell=f"c{k}", name=f"c{k}", run_dir=f"runs/c{k}", config_hash=f"{k}", time="2026-01-01T00:00:00+00:00",
                family="transformer", kind=kind, d_model=32, n_layers=k + 1, vocab_size=1024, context_length=128,
                params_embedding=32768, params_position=0, params_body=n, params_head=0, params_total=n + 32768,
                step=100, tokens=int(tokens), unique_tokens=4_000_000, tokens_per_step=8192, flops_exact=flops,
                flops_6nd_body=flops, flops_6nd_head=flops, flops_6nd_total=flops,
                eval_set="held_out", loss=(1 + 0.002 * (-1) ** k) * (1.5 + 40 * n**-0.35 + 120 * tokens**-0.35),
                perplexity=20.0, bits_per_byte=1.5, lr=0.01, schedule="cosine", seed=0, layout="data=2",
                tokenizer_hash="t", data_hash="d",
            )
        )  # fmt: skip
    ledger.append(path, rows)


def run(place: Path, line: str) -> str:
    """Run a command in a process of its own, and return what it says; progress goes to standard error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "launch", *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_the_readme_has_commands():
    assert len(ESCALA) >= 12
    assert MAKE == ["make quickstart", "make test"]


@pytest.mark.parametrize("line", ESCALA)
def test_the_command_works(line: str, place: Path):
    """In this process, but for the preparation of data, which hands its standard error to another."""
    if line.startswith("escala data prepare"):
        assert run(place, line).strip()
        return
    dry = line.startswith(TRAINS) and "--dry-run" not in line
    done = asked(place, *shlex.split(line)[1:], *(["--dry-run"] if dry else []))
    assert done.returncode == 0 and (done.stdout + done.stderr).strip(), f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("line", PIP)
def test_pip_finds_what_to_install(line: str):
    offline = ["--dry-run", "--no-deps", "--no-index", "--no-build-isolation"]
    words = [sys.executable, "-m", *shlex.split(line), *offline]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "does not provide the extra" not in done.stderr


@pytest.mark.parametrize("target", [line.split()[1] for line in MAKE])
def test_the_make_target_exists(target: str):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweep").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_sweep_has_cells(path: Path):
    from launch.sweep.cells.cells import cells_of
    from launch.sweep.cells.config import load_sweep

    assert len(cells_of(load_sweep(path))) >= 3
