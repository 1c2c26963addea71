"""The files of a set belong to its preparation: changes are refused by name, added files can be taken in on request."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_data_prepare import ROOT, config, documents_of, texts
from trainer.contract.errors import UserError
from trainer.data.prepare.prepare import prepare
from trainer.data.prepare.progress import Progress
from trainer.data.source.input_list import InputList
from trainer.data.source.inputs import embedded_files
from trainer.data.store.manifest import Manifest
from trainer.data.store.verify import verify

BYTES = {"tokenizer": {"kind": "bytes"}}


def corpus(folder: Path, files: int = 4, each: int = 6) -> tuple[str, dict[str, list[str]]]:
    """Write files m0, m1, ... and return their glob and the documents of each."""
    found = {f"m{number}": [f"{number}: {text}" for text in texts(number, each)] for number in range(files)}
    for name, documents in found.items():
        write(folder / f"{name}.jsonl", documents)
    return str(folder / "*.jsonl"), found


def write(path: Path, documents: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def everything(directory: Path) -> list[str]:
    manifest = Manifest.open(directory)
    assert manifest.complete and verify(directory) == []
    return sorted(
        text for split in manifest.splits for text in documents_of(directory, split) if manifest.splits[split]
    )


class Said(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "added": (lambda folder: write(folder / "a-new.jsonl", ["new"]), r"docs: added: .*a-new\.jsonl\)"),
    "removed": (lambda folder: (folder / "m1.jsonl").unlink(), r"docs: removed: .*m1\.jsonl\)"),
    "grown": (lambda folder: (folder / "m1.jsonl").open("a").write("\n"), r"m1\.jsonl \(\d+ bytes then, \d+ now\)"),
    "cut": (lambda folder: os.truncate(folder / "m1.jsonl", 90), r"changed: .*m1\.jsonl \(\d+ bytes then, 90 now\)"),
    "touched": (lambda folder: os.utime(folder / "m1.jsonl", ns=(5, 5)), r"\(2\d{3}-.* then, 1970-.*05 now\)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_tasks_is_refused_by_name_and_nothing_is_lost(tmp_path: Path, change: str) -> None:
    path, found = corpus(tmp_path / "in")
    section = config(tmp_path, path, **BYTES)
    prepare(section, workers=1, task=(0, 2))
    alter, words = CHANGES[change]
    kept = (tmp_path / "in" / "m1.jsonl").stat()
    content = (tmp_path / "in" / "m1.jsonl").read_bytes()
    alter(tmp_path / "in")
    for task in ((1, 2), (0, 1)):
        with pytest.raises(UserError, match=f"made: the files are not those that its preparation .*{words}"):
            prepare(section, workers=1, task=task)
    (tmp_path / "in" / "a-new.jsonl").unlink(missing_ok=True)
    (tmp_path / "in" / "m1.jsonl").write_bytes(content)
    os.utime(tmp_path / "in" / "m1.jsonl", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    prepare(section, workers=1)
    assert everything(tmp_path / "made") == sorted(text for texts in found.values() for text in texts)


@pytest.mark.parametrize("change", CHANGES)
def test_a_complete_set_says_what_has_changed_since(tmp_path: Path, change: str) -> None:
    path, _ = corpus(tmp_path / "in")
    section = config(tmp_path, path, **BYTES)
    prepare(section, workers=1)
    before = Manifest.open(tmp_path / "made")
    alter, words = CHANGES[change]
    alter(tmp_path / "in")
    said = Said()
    if change == "removed":  # nothing is missing in the set
        prepare(section, workers=1, progress=said)
        assert (
            "made: already prepared in" in said.lines[0]
            and "its sources have changed since (docs: rem" in said.lines[0]
        )
    else:
        with pytest.raises(
            UserError, match=f"made is complete, and its sources have changed since .*{words}.*--extend"
        ):
            prepare(section, workers=1)
    assert Manifest.open(tmp_path / "made") == before


def test_another_python_has_another_embedded_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"name": "code", "path": "embedded", "max_bytes": "60K"}
    write(tmp_path / "in" / "a.jsonl", texts(1, 9))
    other = {"name": "docs", "path": str(tmp_path / "in" / "a.jsonl")}
    section = config(tmp_path, "", sources=[source, other], **BYTES)
    prepare(section, workers=1, task=(0, 2))
    (found,) = embedded_files()
    later = found.model_copy(update={"stamp": "Python 9.9.9, 0123"})
    monkeypatch.setattr("trainer.data.source.sources.embedded_files", lambda: [later])
    with pytest.raises(UserError, match=r"changed: embedded \(Python 3\..* then, Python 9\.9\.9, 0123 now\)"):
        prepare(section, workers=1)
    monkeypatch.undo()
    prepare(section, workers=1)
    monkeypatch.setattr("trainer.data.source.sources.embedded_files", lambda: [later])
    said = Said()
    prepare(section, workers=1, progress=said)
    assert "already prepared in" in said.lines[0] and "changed: embedded" in said.lines[0]


def test_a_complete_set_outlives_its_sources(tmp_path: Path) -> None:
    path, _ = corpus(tmp_path / "in")
    section = config(tmp_path, path, **BYTES)
    prepare(section, workers=1)
    for file in (tmp_path / "in").iterdir():
        file.unlink()
    said = Said()
    prepare(section, workers=1, progress=said)
    assert len(said.lines) == 1 and "already prepared in" in said.lines[0] and "there is no file" in said.lines[0]
    (tmp_path / "made" / "parts" / "inputs.json").unlink()  # as sets of earlier versions are
    prepare(section, workers=1, progress=said)
    assert said.lines[1] == f"made: already prepared in {tmp_path / 'made'}"
    with pytest.raises(UserError, match="cannot be extended: it does not say which files it was made of"):
        prepare(section, extend=True)


@pytest.mark.parametrize("complete", [True, False])
def test_added_files_are_taken_in_on_request_and_nothing_is_renumbered(tmp_path: Path, complete: bool) -> None:
    path, found = corpus(tmp_path / "in")
    section = config(tmp_path, path, shard_tokens=1024, **BYTES)
    prepare(section, workers=1, task=(0, 1) if complete else (0, 2))
    before = Manifest.open(tmp_path / "made")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "made").rglob("*.bin")}
    for number, name in enumerate(("a-new", "m1-new", "z-new")):
        found[name] = [f"{name} {text}" for text in texts(50 + number, 5)]
        write(tmp_path / "in" / f"{name}.jsonl", found[name])
    for task in ((2, 3), (0, 3), (1, 3)):
        prepare(section, workers=1, task=task, extend=True)
    after = Manifest.open(tmp_path / "made")
    assert everything(tmp_path / "made") == sorted(text for texts in found.values() for text in texts)
    assert {file: file.stat().st_mtime_ns for file in files} == files
    for split, shards in before.splits.items():
        assert after.splits[split][: len(shards)] == shards
    inputs = InputList.read(tmp_path / "made")
    assert inputs is not None
    names = [Path(file.name).stem for files in inputs.parts_of("docs") for file in files]
    assert names == ["m0", "m1", "m2", "m3", "a-new", "m1-new", "z-new"]
    said = Said()
    prepare(section, workers=1, extend=True, progress=said)
    prepare(section, workers=1, progress=said)
    assert said.lines == [f"made: already prepared in {tmp_path / 'made'}"] * 2


def test_an_extension_that_is_killed_goes_on_without_being_asked_for_again(tmp_path: Path) -> None:
    path, found = corpus(tmp_path / "in")
    section = config(tmp_path, path, **BYTES)
    prepare(section, workers=1)
    found["new"] = ["new one", "new two"]
    write(tmp_path / "in" / "new.jsonl", [*found["new"]])
    (tmp_path / "made" / "parts" / "docs-0004.json").mkdir()  # cannot be written: the extension ends in its only part
    with pytest.raises((UserError, OSError)):
        prepare(section, workers=1, extend=True)
    assert not Manifest.open(tmp_path / "made").complete
    (tmp_path / "made" / "parts" / "docs-0004.json").rmdir()
    prepare(section, workers=1)
    assert everything(tmp_path / "made") == sorted(text for texts in found.values() for text in texts)


def test_what_cannot_be_extended_is_refused(tmp_path: Path) -> None:
    path, _ = corpus(tmp_path / "in")
    extra, _ = corpus(tmp_path / "extra", 2)
    write(tmp_path / "capped" / "a.jsonl", texts(7, 20))
    capped = {"name": "capped", "path": str(tmp_path / "capped" / "*.jsonl"), "max_bytes": 2000}
    section = config(
        tmp_path,
        path,
        sources=[{"name": "docs", "path": path}, capped],
        held_out_sets=[{"name": "extra", "path": extra}],
        **BYTES,
    )
    prepare(section, workers=1)
    for folder, words in {
        "extra": r"the held-out set 'extra' cannot be extended \(added: .*new\.jsonl\)",
        "capped": r"source 'capped' cannot be extended \(added: .*new\.jsonl\): its max_bytes is shared out",
    }.items():
        write(tmp_path / folder / "new.jsonl", ["new"])
        with pytest.raises(UserError, match=words):
            prepare(section, workers=1, extend=True)
        (tmp_path / folder / "new.jsonl").unlink()
    write(tmp_path / "in" / "new.jsonl", ["new"])
    (tmp_path / "in" / "m2.jsonl").unlink()
    with pytest.raises(UserError, match=r"'docs' cannot be extended, because files of it were changed .*removed: .*m2"):
        prepare(section, workers=1, extend=True)
    assert Manifest.open(tmp_path / "made").complete


def test_a_task_that_began_before_an_extension_does_not_complete_the_set(tmp_path: Path) -> None:
    path, found = corpus(tmp_path / "in")
    section = config(tmp_path, path, **BYTES)
    prepare(section, workers=1, task=(0, 2))
    begun, go_on, done = threading.Event(), threading.Event(), []

    def late() -> None:
        prepare(section, workers=1, task=(1, 2), progress=Waiting(begun, go_on))
        done.append(True)

    class Waiting(Progress):
        """Waits where the parts are known and nothing is encoded yet."""

        def __init__(self, begun: threading.Event, go_on: threading.Event) -> None:
            super().__init__()
            self.begun, self.go_on = begun, go_on

        def start(self, parts_done: int, total_parts: int) -> None:
            super().start(parts_done, total_parts)
            self.begun.set()
            assert self.go_on.wait(60)

    thread = threading.Thread(target=late)
    thread.start()
    assert begun.wait(60)
    found["new"] = ["new one", "new two"]
    write(tmp_path / "in" / "new.jsonl", found["new"])
    prepare(section, workers=1, task=(0, 2), extend=True)
    go_on.set()
    thread.join()
    assert (done and not Manifest.open(tmp_path / "made").complete) or everything(tmp_path / "made")
    prepare(section, workers=1)
    assert everything(tmp_path / "made") == sorted(text for texts in found.values() for text in texts)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Serve `in` below the test's directory, and return its address."""
    (tmp_path / "in").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "in"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_files_of_a_server_are_noted_and_compared(tmp_path: Path, served: str) -> None:
    pytest.importorskip("aiohttp")
    documents = texts(3, 40)
    write(tmp_path / "plain.jsonl", documents)
    content = (tmp_path / "plain.jsonl").read_bytes()
    packed = tmp_path / "in" / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(content))
    section = config(tmp_path, f"{served}/a.jsonl.gz", **BYTES)
    prepare(section, workers=1)
    assert everything(tmp_path / "made") == sorted(documents)
    os.utime(packed, (5, 5))
    with pytest.raises(UserError, match=r"is complete, and its sources have changed .*a\.jsonl\.gz \(.* 1970 .* now\)"):
        prepare(section, workers=1)
    packed.write_bytes(gzip.compress(content)[:-200])
    with pytest.raises(UserError, match=r"source 'docs': http://.*/a\.jsonl\.gz is cut off: its gzip data stop"):
        prepare(section.model_copy(update={"name": "other"}), workers=1)
    packed.write_bytes(gzip.compress(content))
    prepare(section.model_copy(update={"name": "other"}), workers=1)
    assert everything(tmp_path / "other") == sorted(documents)


def test_a_file_that_was_refused_can_be_mended_or_taken_away(tmp_path: Path) -> None:
    """Before a part is finished without further ado, and then on request, while it was not read for good."""
    path, found = corpus(tmp_path / "in")
    section = config(tmp_path, path, **BYTES)
    for number, words in ((0, "m0.jsonl: line 7 is not JSON"), (2, "m2.jsonl: line 7 is not JSON")):
        file = tmp_path / "in" / f"m{number}.jsonl"
        file.write_text(file.read_text() + '{"text": "cut')
        with pytest.raises(UserError, match=words):
            prepare(section, workers=1)
        write(file, [*found[f"m{number}"], "one more"])
        found[f"m{number}"].append("one more")
    with pytest.raises(UserError, match=r"the files are not those .* --extend"):
        prepare(section, workers=1)
    (tmp_path / "in" / "m3.jsonl").unlink()
    prepare(section, workers=1, extend=True)
    assert everything(tmp_path / "made") == sorted(text for n in "012" for text in found[f"m{n}"])


def test_a_part_whose_files_were_noted_anew_meanwhile_is_not_recorded(tmp_path: Path) -> None:
    """Two calls, of which the second finds another file before the first has finished a part."""
    path, found = corpus(tmp_path / "in", 2)
    section = config(tmp_path, path, **BYTES)

    class Adding(Progress):
        """Lets the other call run where the parts are known and nothing is encoded yet."""

        def start(self, parts_done: int, total_parts: int) -> None:
            super().start(parts_done, total_parts)
            found["a-new"] = ["new one", "new two"]
            write(tmp_path / "in" / "a-new.jsonl", found["a-new"])
            prepare(section, workers=1, task=(0, 3))

    with pytest.raises(UserError, match="files of source 'docs' were changed, and another call has noted the new ones"):
        prepare(section, workers=1, progress=Adding())
    prepare(section, workers=1)
    assert everything(tmp_path / "made") == sorted(text for texts in found.values() for text in texts)


@pytest.mark.e2e
def test_what_a_user_sees_of_added_files(tmp_path: Path) -> None:
    path, _ = corpus(tmp_path / "in")
    file = tmp_path / "books.yaml"
    values = config(tmp_path, path, **BYTES).model_dump(mode="json", exclude={"name"})
    file.write_text(json.dumps(values))

    def escala(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launch", "data", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert escala("prepare", str(file)).returncode == 0
    write(tmp_path / "in" / "new.jsonl", ["new", "newer", ""])
    refused = escala("prepare", str(file))
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "added: " in refused.stderr and "new.jsonl" in refused.stderr and "--extend" in refused.stderr
    extended = escala("prepare", str(file), "--extend")
    assert extended.returncode == 0, extended.stderr
    assert "docs: of 27 rows, 1 shorter than min_chars" in extended.stderr
    assert "docs: of 27 rows, 1 shorter than min_chars" in escala("inspect", str(file), "--samples", "0").stdout
