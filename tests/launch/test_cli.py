"""The command: fast, torch-free, and every error is one sentence with exit code 2."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from launch import cli
from launch.cli import COMMANDS
from launch.commands.keys import FILES, describe
from tests.conftest import ROOT
from trainer.config.parallel import ParallelConfig

FORBIDDEN = ("torch", "deepspeed", "accelerate", "datasets", "transformers", "wandb")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the configurations, where nothing was prepared."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "pyproject.toml").write_text("[not = yaml")
    return tmp_path


class Said(NamedTuple):
    """What a command ended with and printed."""

    returncode: int
    stdout: str
    stderr: str


def escala(*arguments: str, cwd: Path = ROOT, path: str = "/usr/bin:/bin") -> Said:
    """Run the command in this process, in a directory, as somebody who has set no variable."""
    code: object = 0
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in list(os.environ):
            patch.delenv(name)
        patch.setenv("PATH", path)
        patch.setenv("HOME", "/nonexistent" if cwd == ROOT else str(cwd))
        patch.chdir(cwd)
        try:
            cli.main(list(arguments))
        except SystemExit as stop:
            code = stop.code or 0
    assert isinstance(code, int), code
    return Said(code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str):
    done = escala(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout
    assert f"escala {command}" in done.stdout


def commands(command: click.Command, words: tuple[str, ...] = ("escala",)) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all below it, each with the words that call it."""
    yield " ".join(words), command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from commands(below, (*words, name))


def examples(command: click.Command) -> list[str]:
    """Return the calls in a command's help, without what follows a pipe, a redirection or a wide gap."""
    lines = [line.strip() for line in f"{command.help}\n{command.epilog}".splitlines()]
    return [re.split(r"\s{3,}| \| | > ", line)[0] for line in lines if line.startswith("escala ")]


def test_every_example_of_every_help_is_a_call_that_exists(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    known = dict(commands(cli.escala))
    shown = {example for command in known.values() for example in examples(command)}
    for call in known:
        assert any(example.startswith(call) for example in shown), f"no example of {call}"
    for example in shown:
        call = max((call for call in known if f"{example} ".startswith(f"{call} ")), key=len)
        words = shlex.split(example.removeprefix(call))
        for before, word in zip(["", *words], words, strict=False):
            if word.startswith("configs/") and before != "--out":
                assert Path(word).exists(), example
            if word.startswith(("runs/", "exported/")):
                Path(word).mkdir(parents=True, exist_ok=True)
        if words[-1:] != ["--help"]:
            known[call].make_context(call, words)  # reads the words, and runs nothing


@pytest.mark.parametrize("file", FILES)
def test_every_key_of_a_file_says_what_it_means(file: str):
    rows = describe(file)
    assert [row["key"] for row in rows if not row["meaning"]] == []
    assert [row["key"] for row in rows if not row["values"]] == []


def test_keys_prints_a_section_from_the_schema_and_names_the_nearest_key():
    shown = json.loads(escala("keys", "parallel", "--json").stdout)
    assert {row["key"] for row in shown} == {f"parallel.{name}" for name in ParallelConfig.model_fields}
    stage = next(row for row in shown if row["key"] == "parallel.zero_stage")
    assert (stage["values"], stage["default"], stage["required"]) == ("0 | 1 | 2 | 3", 1, False)
    wrong = escala("keys", "paralel.tensor")
    assert wrong.returncode == 2
    assert "did you mean 'parallel.tensor'?" in wrong.stderr


def test_the_list_of_commands_imports_no_command():
    code = "import sys; from launch.cli import escala; sys.stdout.write(' '.join(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split()
    heavy = {"torch", "pydantic", "numpy", "rich", "yaml", "launch.sweep.execute.story"}
    assert not heavy & set(modules)


def launch_modules() -> list[str]:
    files = sorted((ROOT / "launch").rglob("*.py"))
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def test_the_control_plane_imports_nothing_of_the_data_plane():
    code = (
        "import importlib, sys\n"
        f"for name in {launch_modules()!r}: importlib.import_module(name)\n"
        f"print([m for m in {FORBIDDEN!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_data_plane_does_not_know_the_control_plane():
    for path in (ROOT / "trainer").rglob("*.py"):
        text = path.read_text()
        assert "import launch" not in text, path
        assert "from launch" not in text, path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "configs/run/tyny.yaml"], "did you mean 'tiny.yaml'"),
        (["plan", "configs/run/tiny.yaml", "--set", "model.size=12x"], "expected a number such as"),
        (["plan", "configs/run/tiny.yaml", "--set", "model=99M"], "there is no model '99M'"),
        (["plan", "configs/run/tiny.yaml", "--world", "3"], "cannot be shared by 3 data-parallel ranks"),
        (["plan", "configs/run/tiny.yaml", "--set", "batch.tokens_per_step=1000"], "use 896 or 1024"),
        (
            ["train", "configs/run/tiny.yaml", "--ranks", "2", "--set", "parallel.tensor=4", "--dry-run"],
            "does not divide",
        ),
        (["train", "configs/run/tiny.yaml", "--set", "batch.tokens_per_step=1000"], "use 896 or 1024"),
        (["sweep", "run", "configs/sweep/quickstart.yaml", "--set", "batch.tokens_per_step=1000"], "use 896 or 1024"),
        (["train", "configs/run/tiny.yaml", "--set", "data.sources=[{path: nowhere/*.txt}]"], "nowhere"),
        (["sweep", "run", "configs/run/tiny.yaml"], "'run' is missing"),
        (["sweep", "status", "configs/sweep/none.yaml"], "there is no file"),
        (["plan", "configs/run/tiny.yaml", "--set", "data=wikitext-2"], "how many words it has is only known then"),
        (["plan", "pyproject.toml"], "not valid YAML"),
        (["nothing"], "No such command"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, place: Path, capfd: pytest.CaptureFixture[str]
):
    done = escala(*arguments, cwd=place)
    said = done.stdout + done.stderr + capfd.readouterr().err  # of the process that prepares data
    assert done.returncode == 2, said
    assert message in " ".join(said.split())
    assert "Traceback" not in said
    assert not list(place.glob("data/*/manifest.json")), "it should have been said before data were prepared"


def test_a_plan_for_scripts_is_json():
    done = escala("plan", "configs/run/tiny.yaml", "--world", "2", "--vocab", "2048", "--json")
    plan = json.loads(done.stdout)
    assert plan["world"] == 2
    assert plan["parameters"]["total"] == plan["parameters"]["body"] + plan["parameters"]["embedding"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "run").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_run_configuration_has_a_plan(path: Path):
    done = escala("plan", str(path), "--world", "8", "--json")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("ranks", "settings", "sentence"),
    [
        (3, ["parallel.tensor=2"], "tensor 2 = 2 does not divide the world of 3 ranks"),
        (4, ["parallel.data=3"], "data 3 x sequence 1 x tensor 1 = 3 ranks, but the world has 4"),
        (8, ["parallel.tensor=8"], "n_heads 4 is not a multiple of the tensor degree 8"),
        (2, ["parallel.sequence=2", "model.context_length=63"], "context_length 63 is not a multiple of the sequence"),
        (1, ["precision=fp8"], "precision fp8 needs a Hopper GPU (compute capability 9.0 or above), but there is no"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_before_data_are_prepared(
    place: Path, ranks: int, settings: list[str], sentence: str
) -> None:
    assignments = [word for setting in settings for word in ("--set", setting)]
    done = escala("train", "configs/run/tiny.yaml", "--ranks", str(ranks), *assignments, cwd=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (place / "data").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("forecast --fit f.json --sweep s.yaml --params 1B", "--params has no effect with --sweep"),
        ("forecast --fit f.json --params 1B --runs runs", "--runs has no effect without --sweep"),
        ("forecast --ledger mine.jsonl score t.csv", "--ledger has no effect before 'score'"),
        ("optimal --fit f.json --flops 1e21 --mfu 0.5", "--mfu has no effect without --gpus"),
        (
            "optimal --fit f.json --flops 1e21 --sweep s.yaml --vocab-size 512",
            "--vocab-size has no effect with --sweep",
        ),
        ("sweep design --smallest 1M --largest 1B --target 1e21 --table t.csv", "--table has no effect without --add"),
        ("sweep design --smallest 1M --largest 1B --target 1e21 --slots 2", "--slots has no effect without --out"),
        ("sweep design --add 1 --smallest 1M --largest 1B --target 1e21 --family grid", "--family has no effect with"),
        (
            "sweep design --add 1 --smallest 1M --largest 1B --target 1e21 --out f.json --run x",
            "--run has no effect on f",
        ),
    ],
)
def test_an_option_without_effect_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, said: str
):
    monkeypatch.chdir(tmp_path)
    values = {"E": 1.7, "A": 406.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
    Path("f.json").write_text(json.dumps({"law": "chinchilla", "params": values}))
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(words))
    assert stop.value.code == 2 and said in capsys.readouterr().err


COMPLETED = [
    ("escala tr", "plain,train"), ("escala sweep re", "plain,resume"), ("escala fit --la", "plain,--law"),
    ("escala train con", "file,con"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "offered"), COMPLETED, ids=[line for line, _ in COMPLETED])
def test_the_tab_key_completes(line: str, offered: str) -> None:
    asked = {"_ESCALA_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    found = subprocess.run(
        [sys.executable, "-m", "launch"], env={**os.environ, **asked}, cwd=ROOT, capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert offered in found.stdout.splitlines()


def test_commands_are_completed_without_importing_them() -> None:
    code = (
        "import sys; from launch.cli import escala; from click.shell_completion import ShellComplete\n"
        "items = ShellComplete(escala, {}, 'escala', '_ESCALA_COMPLETE').get_completions([], '')\n"
        "print(len(items), [m for m in sys.modules if m.startswith('launch.commands.')])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == f"{len(COMMANDS)} []\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_makes_a_script(shell: str) -> None:
    page = (ROOT / "docs" / "launching.md").read_text(encoding="utf-8")
    assert f"_ESCALA_COMPLETE={shell}_source escala" in page
    asked = {**os.environ, "_ESCALA_COMPLETE": f"{shell}_source"}
    found = subprocess.run([sys.executable, "-m", "launch"], env=asked, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0 and f"_ESCALA_COMPLETE={shell}_complete" in found.stdout
