"""Remote sets over real servers: HTTP, and S3 where its packages are installed."""

from __future__ import annotations

import functools
import http.server
import multiprocessing
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.data_preparation import ensure_prepared, is_prepared
from tests.unit.data.builders import open_train, random_docs, write_set
from trainer.config.data import CacheConfig, DataConfig, SourceConfig
from trainer.data.opening import open_batches, open_manifest, open_split
from trainer.data.remote import ShardCache, read_manifest
from trainer.errors import UserError

pytest.importorskip("aiohttp")
T = 16


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "made"
    write_set(path, {"a": random_docs(1, 400)}, shard_tokens=1000, held_out=random_docs(3, 30))
    return path


class Server(http.server.ThreadingHTTPServer):
    """Serves a directory, counts what is asked for, and fails as often as it is told."""

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(directory)))
        self.asked: Counter[str] = Counter()
        self.failures: dict[str, int] = {}
        self.replaced: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        if self.server.failures.get(self.path, 0) > 0:
            self.server.failures[self.path] -= 1
            self.send_error(503)
        elif self.path in self.server.replaced:
            content = self.server.replaced[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            super().do_GET()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(local: Path) -> Iterator[Server]:
    running = Server(local.parent)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def data(root: str, tmp_path: Path, **cache: Any) -> DataConfig:
    return DataConfig(
        name="made",
        root=root,
        sources=(SourceConfig(name="a", path="x.jsonl"),),
        cache=CacheConfig(directory=str(tmp_path / "cache"), **cache),
    )


def rows(config: DataConfig, steps: range) -> np.ndarray:
    batches = open_batches(config, context_length=T, sequences_per_step=8, micro_batch=8, seed=1)
    try:
        return np.concatenate([batches.step(step)[0].inputs.numpy() for step in steps])
    finally:
        batches.close()


def test_over_http_the_batches_are_the_same(server: Server, local: Path, tmp_path: Path) -> None:
    here = rows(data(str(local.parent), tmp_path), range(40))
    assert (rows(data(server.url, tmp_path), range(40)) == here).all()
    held_out = open_split(data(server.url, tmp_path), "held_out")
    assert held_out.gather(np.array([0]), T).shape == (1, T + 1)
    downloads = {path: n for path, n in server.asked.items() if path.endswith(".bin")}
    assert downloads and set(downloads.values()) == {1}


def fetch_all(arguments: tuple[str, str, list[str]]) -> list[str]:
    url, directory, files = arguments
    cache = ShardCache(url, read_manifest(url), CacheConfig(directory=directory))
    return [str(cache.fetch(file)) for file in files]


def test_the_ranks_of_a_node_download_each_file_once(server: Server, local: Path, tmp_path: Path) -> None:
    files = [f"{shard.file}.bin" for shard in open_train(local).shards]
    job = (f"{server.url}/made", str(tmp_path / "cache"), files)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.map(fetch_all, [job] * 3)
    assert results[0] == results[1] == results[2]
    assert {n for path, n in server.asked.items() if path.endswith(".bin")} == {1}
    for path, file in zip(results[0], files, strict=True):
        assert Path(path).read_bytes() == (local / file).read_bytes()


def test_the_cache_stays_within_its_bound(server: Server, local: Path, tmp_path: Path) -> None:
    bound = 9000
    config = data(server.url, tmp_path, max_bytes=bound, ahead_steps=0)
    expected = rows(data(str(local.parent), tmp_path), range(60))
    assert (rows(config, range(60)) == expected).all()
    kept = [p.stat().st_size for p in (tmp_path / "cache").rglob("*.*") if p.suffix in (".bin", ".xxh", ".docs")]
    assert 0 < sum(kept) <= bound


def test_a_server_that_fails_is_asked_again(server: Server, tmp_path: Path) -> None:
    manifest, pauses = read_manifest(f"{server.url}/made"), []
    file = f"{manifest.shards('train')[0].file}.bin"
    server.failures[f"/made/{file}"] = 2
    options = {"config": CacheConfig(directory=str(tmp_path)), "sleep": pauses.append}
    cache = ShardCache(f"{server.url}/made", manifest, **options)
    assert cache.fetch(file).exists() and len(pauses) == 2
    server.failures["/made/train/a-00001.bin"] = 99
    with pytest.raises(
        UserError, match=r"cannot fetch http://.*a-00001.bin to .* in 5 attempts: ClientResponseError: 503"
    ):
        cache.fetch("train/a-00001.bin")
    assert not list(tmp_path.rglob("*.part"))


def test_damage_on_the_way_never_reaches_the_cache(server: Server, local: Path, tmp_path: Path) -> None:
    manifest = read_manifest(f"{server.url}/made")
    content = bytearray((local / "train/a-00000.bin").read_bytes())
    content[7] ^= 1
    server.replaced["/made/train/a-00000.bin"] = bytes(content)
    config = CacheConfig(directory=str(tmp_path))
    cache = ShardCache(f"{server.url}/made", manifest, config, sleep=lambda seconds: None)
    with pytest.raises(UserError, match="its content is not what the manifest says"):
        cache.fetch("train/a-00000.bin")
    assert not list(tmp_path.rglob("*.bin"))


def test_shards_come_before_they_are_needed(server: Server, local: Path, tmp_path: Path) -> None:
    config = data(server.url, tmp_path, ahead_steps=50)
    batches = open_batches(config, context_length=T, sequences_per_step=2, micro_batch=2, seed=1)
    batches.step(0)
    coming = {f"/made/{s.file}.bin" for s in open_train(local).shards}
    for _ in range(200):
        if {path for path in server.asked if path.endswith(".bin")} == coming:
            break
        threading.Event().wait(0.05)
    assert {path for path in server.asked if path.endswith(".bin")} == coming
    batches.close()


def test_what_is_not_there_is_said(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no prepared data at http://.*/none"):
        read_manifest(f"{server.url}/none")
    with pytest.raises(UserError, match=r"cannot read|no prepared data"):
        read_manifest("http://127.0.0.1:9/none")
    with pytest.raises(UserError, match="cannot read"):
        read_manifest("nosuch://bucket/none")


@pytest.fixture
def bucket(local: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server with the set in a bucket; its address and keys are in the environment."""
    s3fs = pytest.importorskip("s3fs")
    moto_server = pytest.importorskip("moto.server")
    running = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.makedirs("tokens", exist_ok=True)
    files.put(str(local), "tokens/made", recursive=True)
    yield "s3://tokens"
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def test_over_s3_the_batches_are_the_same(bucket: str, local: Path, tmp_path: Path) -> None:
    here = rows(data(str(local.parent), tmp_path), range(40))
    assert open_manifest(data(bucket, tmp_path)).data_hash == open_train(local).manifest.data_hash
    assert (rows(data(bucket, tmp_path), range(40)) == here).all()


def test_sources_are_read_from_s3(bucket: str) -> None:
    import s3fs

    pytest.importorskip("datasets")
    from trainer.data.sources import Source

    with s3fs.S3FileSystem().open("tokens/in/a.jsonl", "w") as out:
        out.write('{"text": "one"}\n{"text": "two"}\n')
    source = Source(SourceConfig(path=f"{bucket}/in/*.jsonl"))
    assert list(source.documents(0)) == ["one", "two"]


def test_the_control_plane_finds_a_remote_set(server: Server, tmp_path: Path) -> None:
    config = data(server.url, tmp_path)
    manifest = read_manifest(f"{server.url}/made")
    server.replaced["/made/manifest.json"] = (
        manifest.model_copy(update={"config_hash": config.content_hash()}).model_dump_json().encode()
    )
    found = ensure_prepared(config)
    assert found.data_hash == manifest.data_hash
    assert not is_prepared(config.model_copy(update={"held_out_fraction": 0.5}))
