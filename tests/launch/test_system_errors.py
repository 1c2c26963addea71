"""What the system refuses is one sentence with the path and the reason, whatever the command: no list of kinds."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from launch import cli
from trainer.contract.errors import EndedBadlyError

LONG = "a" * 300
TABLE = "name,N,D,loss\na,13000,72000,4.60\nb,27000,72000,4.27\nc,54000,72000,4.11\nd,100000,72000,4.02\n"


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["plan", f"{LONG}.yaml"], "File name too long"),
        (["fit", "t.csv", "--law", "power-N", "--out", LONG], "File name too long"),
        (["report", "t.csv", "--out", f"x/{LONG}"], "File name too long"),
        (["report", "t.csv", "--out", "t.csv/x"], "Not a directory"),
        (["report", "t.csv", "--out", "/proc/escala"], "No such file or directory"),
        (["fit", "t.csv", "--law", "power-N", "--out", "/dev/full"], "No space left on device"),
    ],
)
def test_paths_that_cannot_be_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(TABLE)
    code, text = said(capsys, *words)
    assert code == 2 and text.startswith("error: ") and reason in text and text.count("\n") == 1, text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_every_number_of_the_system_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def fail(**_: object) -> None:
        raise OSError(number, os.strerror(number), "/runs/x")

    monkeypatch.setattr(cli.escala, "main", fail)
    code, text = said(capsys)
    assert code == 2 and f"error: /runs/x: {os.strerror(number)}" in text


def test_the_exit_code_of_what_ended_is_handed_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise EndedBadlyError("the run diverged", 76)

    monkeypatch.setattr(cli.escala, "main", fail)
    assert said(capsys) == (76, "error: the run diverged\n")
