"""Datasets by their names on the hub and by hf:// addresses, streamed from a hub on this machine."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hub import COMMIT, Hub
from trainer.data.store.manifest import Manifest

pytest.importorskip("datasets")
ROOT = Path(__file__).resolve().parents[2]
CARD = """---
configs:
- config_name: small
  data_files:
  - {split: train, path: small/train-*.jsonl}
  - {split: test, path: small/test.jsonl}
- config_name: large
  data_files: large/*.jsonl
---
"""
READER = """
import json, sys
from trainer.config.data import SourceConfig
from trainer.data.source.sources import Source
from trainer.contract.errors import UserError

def read(options):
    try:
        source = Source(SourceConfig(**options))
        return [text for part in range(source.num_parts) for text in source.documents(part)]
    except UserError as error:
        return str(error)

for line in sys.stdin:
    print(json.dumps(read(json.loads(line))), flush=True)
"""


def jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def parquet(*texts: str) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": texts}), out)
    return out.getvalue()


@pytest.fixture
def hub() -> Iterator[Hub]:
    running = Hub(
        {
            "org/lines": {
                "README.md": CARD.encode(),
                "small/train-0.jsonl": jsonl("a", "b"),
                "small/train-1.jsonl": jsonl("c"),
                "small/test.jsonl": jsonl("t"),
                "large/0.jsonl": jsonl(*(f"document {n} of many" for n in range(300))),
            },
            "org/table": {"data/train-00000.parquet": parquet("p", "q")},
            "org/commas": {
                "train.csv": b"id,text,n\n" + b"".join(b"%d,%d,x\n" % (n, n) for n in range(3)) + b'4,"a, b",\n5,,1\n'
            },
        }
    )
    yield running
    running.close()


class Reader:
    """A process that reads sources from one hub: its address is taken from the environment when libraries start."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER],
            cwd=ROOT,
            env=environment(hub, home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, path: str, **options: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"path": path, **options}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def environment(hub: Hub, home: Path) -> dict[str, str]:
    return os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "USE_TORCH": "0", "HF_HUB_OFFLINE": "0"}


@pytest.fixture
def read(hub: Hub, tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(hub, tmp_path / "home")
    yield reader
    reader.process.kill()
    reader.process.communicate()


def test_names_and_addresses_are_read(read: Reader) -> None:
    assert read("org/lines", subset="small") == ["a", "b", "c"]
    assert read("org/lines", subset="small", split="test") == ["t"]
    assert len(read("org/lines", subset="large", parts=1)) == 300
    assert read("org/table") == ["p", "q"]
    assert read("org/lines", subset="small", split="train+test") == ["a", "b", "c", "t"]
    assert read("org/commas") == ["0", "1", "2", "a, b"]  # text, whatever the other rows of its chunk hold
    assert read("hf://datasets/org/lines/small/train-*.jsonl") == ["a", "b", "c"]
    assert read("hf://datasets/org/table/data/train-00000.parquet") == ["p", "q"]


def test_what_is_not_there_is_said_by_name(read: Reader, hub: Hub) -> None:
    assert read("org/none").startswith("source 'none' (org/none) is not on the hub, or not for everybody: check the")
    assert "'none' not found. Available: ['small', 'large']" in read("org/lines", subset="none")
    assert "Bad split: none. Available splits: ['train', 'test']" in read("org/lines", subset="small", split="none")
    assert "there is no file hf://" in read("hf://datasets/org/lines/none-*.jsonl")
    if importlib.util.find_spec("gcsfs") is None:
        assert "needs a package that is not installed: Please install gcsfs" in read("gs://bucket/a.jsonl")


@pytest.mark.parametrize(
    "path",
    [
        f"/api/datasets/org/lines/tree/{COMMIT}/small",
        f"/datasets/org/lines/resolve/{COMMIT}/small/train-1.jsonl",
    ],
)
def test_a_rate_limit_is_waited_for(read: Reader, hub: Hub, path: str) -> None:
    hub.limited[path] = 1
    assert read("org/lines", subset="small") == ["a", "b", "c"]
    first, second, *_ = hub.asked[path]
    assert second - first >= 1.0


@pytest.mark.parametrize(
    "path", [f"/datasets/org/lines/resolve/{name}" for name in ("main/README.md", f"{COMMIT}/small/train-0.jsonl")]
)
def test_a_hub_that_falls_silent_is_named_and_left(read: Reader, hub: Hub, path: str) -> None:
    hub.silent.add(path)
    assert read("org/lines", subset="small", stall_seconds=2).startswith(
        "source 'lines' (org/lines) gave nothing for 2 s; see to its server or network"
    )


@pytest.mark.e2e
def test_a_preparation_from_the_hub_completes_or_says_why_not(hub: Hub, tmp_path: Path) -> None:
    def prepare(name: str, **options: Any) -> subprocess.CompletedProcess[str]:
        section = {
            "name": name,
            "root": str(tmp_path / "sets"),
            "sources": [{"path": "org/lines", "subset": "large", **options}],
            "tokenizer": {"kind": "bytes"},
            "held_out_fraction": 0.2,
        }
        command = [sys.executable, "-m", "trainer.data.prepare", "--config", "-", "--workers", "1"]
        return subprocess.run(
            command, cwd=ROOT, env=environment(hub, tmp_path / "home"), input=json.dumps(section), text=True,
            capture_output=True, timeout=120,
        )  # fmt: skip

    hub.limited[f"/datasets/org/lines/resolve/{COMMIT}/large/0.jsonl"] = 1
    done = prepare("limited")
    assert done.returncode == 0, done.stderr
    manifest = Manifest.open(tmp_path / "sets" / "limited")
    assert manifest.documents("train") + manifest.documents("held_out") == 300

    hub.silent.add(f"/datasets/org/lines/resolve/{COMMIT}/large/0.jsonl")
    left = prepare("silent", stall_seconds=2)
    assert left.returncode == 2 and "Traceback" not in left.stderr
    assert left.stderr.splitlines()[-1].startswith("error: source 'lines' (org/lines) gave nothing for 2 s")
