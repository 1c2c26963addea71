"""Remote sets over a real HTTP server."""

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

from launch.run.data_preparation import ensure_prepared, is_prepared
from tests.e2e.remote_sets import T, data, fetch_all, kept, rows, write_local
from tests.unit.data.builders import open_train
from trainer.config.data import CacheConfig
from trainer.contract.errors import UserError
from trainer.data.read.opening import open_batches, open_split
from trainer.data.store.cache import ShardCache, read_manifest

pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_local(tmp_path_factory.mktemp("served"))


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


def test_over_http_the_batches_are_the_same(server: Server, local: Path, tmp_path: Path) -> None:
    here = rows(data(str(local.parent), tmp_path), range(40))
    assert (rows(data(server.url, tmp_path), range(40)) == here).all()
    held_out = open_split(data(server.url, tmp_path), "held_out")
    assert held_out.gather(np.array([0]), T).shape == (1, T + 1)
    downloads = {path: n for path, n in server.asked.items() if path.endswith(".bin")}
    assert downloads and set(downloads.values()) == {1}


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
    assert 0 < kept(tmp_path) <= bound


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


def test_the_control_plane_finds_a_remote_set(server: Server, tmp_path: Path) -> None:
    config = data(server.url, tmp_path)
    manifest = read_manifest(f"{server.url}/made")
    server.replaced["/made/manifest.json"] = (
        manifest.model_copy(update={"config_hash": config.content_hash()}).model_dump_json().encode()
    )
    found = ensure_prepared(config)
    assert found.data_hash == manifest.data_hash
    assert not is_prepared(config.model_copy(update={"held_out_fraction": 0.5}))
