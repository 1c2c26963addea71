"""Preparation as its users run it: once, again, interrupted, over several tasks, with duplicates and full disks."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.run.data_preparation import prepared
from tests.conftest import shared_data
from trainer.config.base import parse_section
from trainer.config.data import DataConfig
from trainer.contract.errors import UserError
from trainer.data.prepare.encode import document_digest
from trainer.data.prepare.prepare import prepare
from trainer.data.read.opening import open_manifest
from trainer.data.store import shard_writer
from trainer.data.store.inspect import samples
from trainer.data.store.manifest import Manifest
from trainer.data.store.token_set import TokenSet
from trainer.data.store.verify import verify
from trainer.data.tokenize.tokenizer import load_tokenizer, save_tokenizer

pytest.importorskip("datasets")
ROOT = Path(__file__).resolve().parents[2]
WORDS = [f"word{n}" for n in range(300)] + ["naïve", "数据", "the", "of", "\n", "\t", "  "]


def texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 120))) for _ in range(count)]


def write_files(folder: Path, documents: list[str], files: int = 4) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents[number::files])
        (folder / f"{number}.jsonl").write_text(lines)
    return str(folder / "*.jsonl")


def config(root: Path, path: str, **changes: Any) -> DataConfig:
    values = {
        "name": "made",
        "root": str(root),
        "sources": [{"name": "docs", "path": path}],
        "tokenizer": {"kind": "bpe", "vocab_size": 300, "sample_bytes": 200_000},
        "held_out_fraction": 0.2,
        "shard_tokens": 5000,
    }
    return parse_section(DataConfig, {**values, **changes}, "test")


def documents_of(directory: Path, split: str) -> list[str]:
    tokens, tokenizer = TokenSet.open(directory, split), load_tokenizer(directory)
    found = []
    for first, ends in tokens.pool_documents():
        begins = np.concatenate([[0], ends[:-1]])
        for begin, end in zip(begins, ends, strict=True):
            ids = tokens.read(np.array([first + begin]), int(end - begin))[0]
            assert ids[-1] == tokenizer.eos_id
            found.append(tokenizer.decode(ids[:-1].tolist()))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], DataConfig]:
    root = tmp_path_factory.mktemp("made")
    documents = texts(0, 400)
    section = config(root, write_files(root / "in", documents))
    return prepare(section, workers=2), documents, section


def test_every_document_is_in_one_split_and_comes_back(made: tuple[Path, list[str], DataConfig]) -> None:
    directory, documents, _ = made
    train, held_out = documents_of(directory, "train"), documents_of(directory, "held_out")
    assert sorted(train + held_out) == sorted(documents)
    assert not {document_digest(t.encode()) for t in train} & {document_digest(t.encode()) for t in held_out}
    assert len(held_out) / len(documents) == pytest.approx(0.2, abs=0.08)


def test_the_manifest_counts_rightly(made: tuple[Path, list[str], DataConfig]) -> None:
    directory, documents, section = made
    manifest = Manifest.open(directory)
    splits = ("train", "held_out")
    assert sum(manifest.documents(split) for split in splits) == len(documents)
    assert sum(manifest.text_bytes(split) for split in splits) == sum(len(text.encode()) for text in documents)
    assert manifest.bytes_per_token("train") == manifest.text_bytes("train") / manifest.tokens("train")
    assert manifest.complete and manifest.config_hash == section.content_hash() and len(manifest.shards("train")) > 2
    assert manifest.tokenizer_hash == load_tokenizer(directory).hash
    assert verify(directory) == []


def test_again_does_nothing_and_another_configuration_is_refused(made: tuple[Path, list[str], DataConfig]) -> None:
    directory, _, section = made
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*.bin")}
    assert prepare(section) == directory
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*.bin")} == before
    other = section.model_copy(update={"held_out_fraction": 0.3})
    with pytest.raises(UserError, match=r"another configuration \(data.held_out_fraction: 0.2 there, 0.3 here\)"):
        prepare(other)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_and_tasks_do_not_change_the_set(
    made: tuple[Path, list[str], DataConfig], tmp_path: Path, workers: int
) -> None:
    """One process, or three tasks one after the other in any order: the same tokens."""
    section = made[2].model_copy(update={"root": str(tmp_path)})
    for index in (2, 0, 1):
        prepare(section, workers=workers, task=(index, 3))
        assert Manifest.open(tmp_path / "made").complete == (index == 1) if index != 2 else True
    assert Manifest.open(tmp_path / "made").data_hash == Manifest.open(made[0]).data_hash


def test_the_order_of_files_does_not_change_what_is_held_out(tmp_path: Path) -> None:
    documents = texts(1, 120)
    options = {"tokenizer": {"kind": "bytes"}}
    one = prepare(config(tmp_path / "1", write_files(tmp_path / "a", documents, 3), **options), workers=1)
    two = prepare(config(tmp_path / "2", write_files(tmp_path / "b", documents[::-1], 2), **options), workers=1)
    assert sorted(documents_of(one, "held_out")) == sorted(documents_of(two, "held_out"))


def test_duplicates_of_a_held_out_set_are_dropped_and_reported(tmp_path: Path) -> None:
    documents, extra = texts(2, 100), texts(3, 30)
    section = config(
        tmp_path,
        write_files(tmp_path / "in", documents + extra[:11]),
        tokenizer={"kind": "bytes"},
        held_out_sets=[{"name": "wiki", "path": write_files(tmp_path / "wiki", extra, 1)}],
    )
    directory = prepare(section, workers=1)
    manifest = Manifest.open(directory)
    assert sorted(documents_of(directory, "wiki")) == sorted(extra)
    assert sorted(documents_of(directory, "train") + documents_of(directory, "held_out")) == sorted(documents)
    assert manifest.report["docs"]["dropped_because_held_out"] == 11
    assert manifest.evaluation_sets() == ["held_out", "wiki"]


def test_wikitext_has_its_published_number_of_words(tmp_path: Path) -> None:
    """245,569 with one end for each line (Merity et al. 2016, table 1)."""
    text = gzip.decompress(shared_data("text/wiki.test.tokens.gz").read_bytes())
    (tmp_path / "wiki.txt").write_bytes(text)
    section = config(
        tmp_path,
        write_files(tmp_path / "in", texts(9, 40), 1),
        tokenizer={"kind": "bytes"},
        held_out_sets=[{"name": "wiki", "path": str(tmp_path / "wiki.txt"), "documents_are": "lines"}],
    )
    manifest = Manifest.open(prepare(section, workers=1))
    assert manifest.words("wiki") + manifest.documents("wiki") == 245_569


def run_prepare(section: DataConfig, *more: str) -> subprocess.Popen[bytes]:
    return start(section, "-m", "trainer.data.prepare", "--config", "-", *more)


def start(section: DataConfig, *arguments: str, temporary: str | None = None) -> subprocess.Popen[bytes]:
    """Start Python with the section on its standard input, in a group and with a temporary directory of its own."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | ({"TMPDIR": temporary} if temporary else {}),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(section.model_dump(mode="json")).encode())
    process.stdin.close()
    return process


def shared_memory() -> set[str]:
    """Return what lies in shared memory and is used by no process: other tests and programs have theirs there too."""
    found, used = {str(p) for p in Path("/dev/shm").glob("*")}, set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended
            used.update(re.findall(r"/dev/shm/\S+", maps.read_text()))
    return found - used


AS_TRAINING_DOES = """
import json, sys
from launch.run.data_preparation import ensure_prepared
from trainer.config.base import parse_section
from trainer.config.data import DataConfig
ensure_prepared(parse_section(DataConfig, json.load(sys.stdin), "test"))
"""


@pytest.mark.e2e
def test_killed_outright_it_leaves_nothing_and_goes_on(tmp_path: Path) -> None:
    """SIGKILL of the whole group in the middle; a rerun keeps the finished parts and gives the same set."""
    documents = texts(4, 12_000)
    path = write_files(tmp_path / "in", documents, 8)
    whole = Manifest.open(prepare(config(tmp_path / "whole", path), workers=2)).data_hash
    before, temporary = shared_memory(), tmp_path / "temporary"
    temporary.mkdir()
    section = config(tmp_path / "killed", path)
    directory = tmp_path / "killed" / "made"
    process = start(section, "-c", AS_TRAINING_DOES, temporary=str(temporary))
    wait_until(lambda: len(list((directory / "parts").glob("docs-*.json"))) >= 2 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {p: p.stat().st_mtime_ns for p in (directory / "parts").glob("docs-*.json")}
    assert 2 <= len(done) < 8
    assert not Manifest.open(directory).complete  # the prefix can be read already
    rows = TokenSet.open(directory).gather(np.array([0, 1]), 32)
    assert rows.shape == (2, 33)
    assert shared_memory() <= before and not list(temporary.rglob("*"))
    again = run_prepare(section, "--workers", "1")
    assert again.wait(timeout=120) == 0
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert Manifest.open(directory).data_hash == whole
    assert not list(directory.rglob("*.tmp"))


def wait_until(reached: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.005)


@pytest.mark.e2e
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    section = config(tmp_path, write_files(tmp_path / "in", texts(5, 20_000), 1))
    process = run_prepare(section, "--workers", "2")
    wait_until(lambda: (tmp_path / "made/train").exists() or process.poll() is not None)
    children = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.kill()  # the parent alone, not the group
    process.wait()
    wait_until(lambda: not any(alive(int(pid)) for pid in children), seconds=20)
    assert len(children) >= 3


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_full_disk_is_said_and_what_was_published_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = config(tmp_path, write_files(tmp_path / "in", texts(6, 600), 3), tokenizer={"kind": "bytes"})
    real, calls = shard_writer.ShardWriter._write, []

    def write(self: Any, *arguments: Any) -> None:
        calls.append(self.stem)
        if "docs-0002" in self.stem:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *arguments)

    monkeypatch.setattr(shard_writer.ShardWriter, "_write", write)
    with pytest.raises(UserError, match="the disk is full while writing train/docs-0002: No space left on device"):
        prepare(section, workers=1)
    directory = tmp_path / "made"
    manifest = Manifest.open(directory)
    assert not manifest.complete and verify(directory) == [] and manifest.tokens("train") > 0
    monkeypatch.setattr(shard_writer.ShardWriter, "_write", real)
    prepare(section, workers=1)
    assert Manifest.open(directory).complete and verify(directory) == []


def test_an_exchanged_tokenizer_is_refused_by_all_who_use_the_set(
    made: tuple[Path, list[str], DataConfig], tmp_path: Path
) -> None:
    directory, _, section = made
    shutil.copytree(directory, tmp_path / "made")
    section = section.model_copy(update={"root": str(tmp_path)})
    save_tokenizer(tmp_path / "made" / "tokenizer", "bytes", b"")
    words = (
        "the tokenizer in .*tokenizer is another one: its hash is .*, the tokens were made with .*; put that one back"
    )
    for use in (prepare, prepared, open_manifest, lambda s: samples(Path(s.directory), "train", 1, 8, 0)):
        with pytest.raises(UserError, match=words):
            use(section)
    assert len(verify(tmp_path / "made")) == 1


def test_sets_that_nobody_can_use_are_refused(tmp_path: Path) -> None:
    path = write_files(tmp_path / "in", texts(7, 4), 1)
    with pytest.raises(UserError, match="none of 4 documents was held out"):
        prepare(config(tmp_path / "a", path, tokenizer={"kind": "bytes"}, held_out_fraction=1e-9), workers=1)
    sources = [{"path": path, "min_chars": 10**6}]
    with pytest.raises(
        UserError, match=r"no training document came out of .* \(0 passed the filters\)\. source: of 4 rows, 4"
    ):
        prepare(config(tmp_path / "b", path, tokenizer={"kind": "bytes"}, sources=sources), workers=1)
    with pytest.raises(UserError, match=r"gave no text \(source: of 4 rows, 4 shorter than min_chars\)$"):
        prepare(config(tmp_path / "c", path, sources=sources), workers=1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"sources": [{"name": "docs", "path": "IN", "min_chars": 10**6}]},
            r"no training document came out .* \(0 pass",
        ),
        ({"held_out_fraction": 1 - 1e-9}, r"no training document came out of .* \(4 passed the filters\)"),
        ({"sources": [{"name": "docs", "path": "IN", "column": "txt"}]}, "has no column 'txt'"),
        ({"held_out_sets": [{"name": "more", "path": "IN", "column": "txt"}]}, "source 'more': .* has no column 'txt'"),
    ],
)
def test_a_mistake_that_gave_nothing_leaves_the_directory_to_the_corrected_configuration(
    tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    """Where the tokenizer need not be trained, it exists before the first document is read."""
    path = write_files(tmp_path / "in", texts(7, 4), 1)
    right = config(tmp_path, path, tokenizer={"kind": "bytes"}, held_out_fraction=0.5)
    values = right.model_dump(mode="json") | json.loads(json.dumps(wrong).replace('"IN"', json.dumps(path)))
    with pytest.raises(UserError, match=words):
        prepare(parse_section(DataConfig, values, "test"), workers=1)
    left = [file.name for file in (tmp_path / "made").rglob("*") if file.is_file() and file.suffix != ".lock"]
    assert left == []
    assert Manifest.open(prepare(right, workers=1)).complete


@pytest.mark.e2e
def test_what_a_user_sees(tmp_path: Path) -> None:
    """The command: prepare, again, inspect, verify, damage, export and import."""

    def escala(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "launch", "data", *arguments], cwd=ROOT, capture_output=True, text=True
        )

    path = write_files(tmp_path / "in", texts(8, 300), 2)
    file = tmp_path / "books.yaml"
    file.write_text(json.dumps(config(tmp_path, path).model_dump(mode="json", exclude={"name"})))
    first = escala("prepare", str(file))
    assert first.returncode == 0 and "books: prepared in" in first.stderr, first.stderr
    assert "already prepared" in escala("prepare", str(file)).stderr
    values = json.loads(escala("inspect", str(file), "--json").stdout)
    assert values["splits"]["train"]["documents"] + values["splits"]["held_out"]["documents"] == 300
    assert len(values["samples"]) == 2 and values["samples"][0]["text"]
    assert "bytes/token" in escala("inspect", str(tmp_path / "books")).stdout
    assert escala("verify", str(file)).returncode == 0

    assert escala("export", str(file), str(tmp_path / "out.idx")).returncode == 0
    imported = escala(
        "import", str(tmp_path / "out.bin"), "--to", str(tmp_path / "imp"), "--tokenizer", str(tmp_path / "books")
    )
    assert imported.returncode == 0, imported.stderr

    shard = next((tmp_path / "books" / "train").glob("*.bin"))
    content = bytearray(shard.read_bytes())
    content[10] ^= 4
    shard.write_bytes(content)
    damaged = escala("verify", str(file))
    assert damaged.returncode == 2 and shard.name in damaged.stderr and "Traceback" not in damaged.stderr

    wrong = escala("prepare", str(file), "--set", "name=other", "--set", "sources=[{path: /nowhere/*.jsonl}]")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") <= 2 and "there is no file /nowhere" in wrong.stderr


@pytest.mark.e2e
def test_tasks_at_the_same_time_make_the_set_of_one(made: tuple[Path, list[str], DataConfig], tmp_path: Path) -> None:
    """As the tasks of an array job do: two share the parts, and a third was given all of them by mistake."""
    section = made[2].model_copy(update={"root": str(tmp_path)})
    tasks = ["0/2", "1/2", "0/1"]
    processes = [run_prepare(section, "--workers", "1", "--task", task) for task in tasks]
    ends = [process.wait(timeout=300) for process in processes]
    assert ends == [0, 0, 0], [process.stderr.read() for process in processes if process.stderr]
    directory = tmp_path / "made"
    assert Manifest.open(directory).data_hash == Manifest.open(made[0]).data_hash and verify(directory) == []
    assert not list(directory.rglob("*.tmp")) and not list(directory.rglob(".*.[0-9]*"))
