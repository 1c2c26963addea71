"""Sets and sources in a bucket of a real S3 server, which counts what is asked for and fails when it is told to."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.remote_sets import data, fetch_all, kept, rows, write_local
from tests.unit.data.builders import open_train
from trainer.config.base import parse_section
from trainer.config.data import CacheConfig, DataConfig
from trainer.contract.errors import UserError
from trainer.data.prepare.prepare import prepare
from trainer.data.read.opening import open_batches, open_manifest
from trainer.data.store.cache import ShardCache, read_manifest
from trainer.data.store.manifest import Manifest

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
serving = pytest.importorskip("werkzeug.serving")


class Bucket:
    """An S3 server in a thread. `failing` paths are answered `503 SlowDown` so many times."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()  # paths whose content was asked for
        self.failing: dict[str, int] = {}
        self._app = moto_server.DomainDispatcherApplication(moto_server.create_backend_app)
        self._server = serving.make_server("127.0.0.1", 0, self._answer, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "GET":
            self.asked[path] += 1
            if self.failing.get(path, 0) > 0:
                self.failing[path] -= 1
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def downloads(self) -> dict[str, int]:
        """Return how often each shard's tokens were asked for."""
        return {path: n for path, n in self.asked.items() if path.endswith(".bin")}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_local(tmp_path_factory.mktemp("served"))


@pytest.fixture
def bucket(local: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Return a server that has the set in the bucket `tokens`; its address and keys are in the environment."""
    running = Bucket()
    for key, value in {
        "AWS_ENDPOINT_URL": running.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.makedirs("tokens", exist_ok=True)
    files.put(str(local), "tokens/made", recursive=True)
    yield running
    files.rm("tokens", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
    running.close()


def test_the_batches_are_those_of_the_local_set_and_each_shard_comes_once(
    bucket: Bucket, local: Path, tmp_path: Path
) -> None:
    here = rows(data(str(local.parent), tmp_path), range(40))
    there = data("s3://tokens", tmp_path)
    assert open_manifest(there).data_hash == open_train(local).manifest.data_hash
    assert (rows(there, range(40)) == here).all()
    assert bucket.downloads() and set(bucket.downloads().values()) == {1}


def test_the_ranks_of_a_node_download_each_shard_once(bucket: Bucket, local: Path, tmp_path: Path) -> None:
    files = [f"{shard.file}.bin" for shard in open_train(local).shards]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.map(fetch_all, [("s3://tokens/made", str(tmp_path / "cache"), files)] * 3)
    assert results[0] == results[1] == results[2]
    assert bucket.downloads() == {f"/tokens/made/{file}": 1 for file in files}
    for path, file in zip(results[0], files, strict=True):
        assert Path(path).read_bytes() == (local / file).read_bytes()


def test_a_bounded_cache_evicts_and_fetches_again(bucket: Bucket, local: Path, tmp_path: Path) -> None:
    bound = 9000
    expected = rows(data(str(local.parent), tmp_path), range(60))
    assert (rows(data("s3://tokens", tmp_path, max_bytes=bound, ahead_steps=0), range(60)) == expected).all()
    assert 0 < kept(tmp_path) <= bound
    assert max(bucket.downloads().values()) > 1


def test_shards_come_before_they_are_needed(bucket: Bucket, local: Path, tmp_path: Path) -> None:
    config = data("s3://tokens", tmp_path, ahead_steps=50)
    batches = open_batches(config, context_length=16, sequences_per_step=2, micro_batch=2, seed=1)
    batches.step(0)
    coming = {f"/tokens/made/{shard.file}.bin" for shard in open_train(local).shards}
    for _ in range(200):
        if set(bucket.downloads()) == coming:
            break
        threading.Event().wait(0.05)
    batches.close()
    assert set(bucket.downloads()) == coming


def test_a_server_that_asks_to_slow_down_is_asked_again(bucket: Bucket, local: Path, tmp_path: Path) -> None:
    file = "train/a-00000.bin"
    bucket.failing[f"/tokens/made/{file}"] = 2
    cache = ShardCache("s3://tokens/made", read_manifest("s3://tokens/made"), CacheConfig(directory=str(tmp_path)))
    assert cache.fetch(file).read_bytes() == (local / file).read_bytes()
    assert bucket.downloads() == {f"/tokens/made/{file}": 3}


def test_an_object_that_was_exchanged_never_reaches_the_cache(bucket: Bucket, local: Path, tmp_path: Path) -> None:
    content = bytearray((local / "train/a-00000.bin").read_bytes())
    content[7] ^= 1
    with s3fs.S3FileSystem().open("tokens/made/train/a-00000.bin", "wb") as out:
        out.write(content)
    config = CacheConfig(directory=str(tmp_path))
    cache = ShardCache("s3://tokens/made", read_manifest("s3://tokens/made"), config, sleep=lambda seconds: None)
    with pytest.raises(UserError, match="its content is not what the manifest says"):
        cache.fetch("train/a-00000.bin")
    assert not list(tmp_path.rglob("*.bin"))


def test_a_bucket_that_is_not_there_is_said(bucket: Bucket) -> None:
    with pytest.raises(UserError, match="no prepared data at s3://nowhere/made"):
        read_manifest("s3://nowhere/made")


def test_a_set_is_prepared_from_objects_of_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    """Two files by a glob, a column by name: the same set as from the same files on this machine."""
    (tmp_path / "in").mkdir()
    for number in range(2):
        lines = [json.dumps({"content": f"document {number} {k} " + "word " * (k % 9)}) for k in range(100)]
        (tmp_path / "in" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    s3fs.S3FileSystem().put(str(tmp_path / "in"), "tokens/in", recursive=True)

    def made(name: str, path: str) -> Manifest:
        values = {"name": name, "root": str(tmp_path / "sets"), "tokenizer": {"kind": "bytes"}}
        source = {"name": "docs", "path": path, "column": "content"}
        section = parse_section(DataConfig, {**values, "sources": [source], "held_out_fraction": 0.2}, "test")
        return Manifest.open(prepare(section, workers=1))

    there = made("there", "s3://tokens/in/*.jsonl")
    assert there.data_hash == made("here", str(tmp_path / "in" / "*.jsonl")).data_hash
    assert np.sum([there.documents(split) for split in there.splits]) == 200
