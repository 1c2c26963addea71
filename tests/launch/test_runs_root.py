"""Hints that follow a command name the directory of its runs where that is not the usual one."""

from pathlib import Path

from launch.run.runs_root import default_runs, runs_flag


def test_only_another_directory_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESCALA_RUNS", raising=False)
    assert runs_flag(Path("runs")) == runs_flag(tmp_path / "runs") == ""
    assert runs_flag(Path("/shared/my runs")) == " --runs '/shared/my runs'"
    monkeypatch.setenv("ESCALA_RUNS", "/shared/my runs")
    assert default_runs() == Path("/shared/my runs") and runs_flag(Path("/shared/my runs")) == ""
    assert runs_flag(Path("runs")) == " --runs runs"
