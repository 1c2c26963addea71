"""Shards on a remote file system: copied to a bounded node-local cache when they are needed.

The ranks of a node share the cache: a file is downloaded once, under a lock, checked against the manifest's hash, and
renamed into place. Beyond the bound, the files that were used least recently go; a file that a rank has mapped stays
readable for it. Nothing depends on the cache: what is missing comes again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from trainer.config.data import CacheConfig
from trainer.contract.errors import UserError
from trainer.data.source.retry import may_pass, short, with_pauses
from trainer.data.store.manifest import FILE, Manifest

ATTEMPTS = 5


def is_remote(directory: str) -> bool:
    """Return whether a directory is a URL."""
    return "://" in directory


def read_manifest(url: str, storage: dict[str, Any] | None = None) -> Manifest:
    """Read the manifest of a remote set. Raises UserError where it cannot be reached."""
    where = f"{url.rstrip('/')}/{FILE}"
    try:
        with fsspec.open(where, "rb", **(storage or {})) as file:
            return Manifest.parse(file.read().decode(), where)
    except FileNotFoundError:
        raise UserError(f"no prepared data at {url} (no {FILE})") from None
    except Exception as error:  # file systems raise the errors of their own libraries
        raise UserError(f"cannot read {where}: {short(error)}") from None


class ShardCache:
    """The local copies of the files of one remote set. Threads and processes may share it."""

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        config: CacheConfig,
        *,
        storage: dict[str, Any] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url, self.config, self.storage, self.sleep = url.rstrip("/"), config, storage or {}, sleep
        self.root = Path(config.directory).expanduser()
        self.directory = self.root / manifest.data_hash
        self.directory.mkdir(parents=True, exist_ok=True)
        self.hashes = {
            shard.file + suffix: value
            for shards in manifest.splits.values()
            for shard in shards
            for suffix, value in (
                (".bin", shard.hash),
                (".xxh", shard.blocks_hash),
                (".docs", shard.documents_hash),
            )
        }
        self._background = ThreadPoolExecutor(2, thread_name_prefix="shards")
        self._coming: dict[str, Future[Path]] = {}

    def fetch(self, file: str) -> Path:
        """Return the local copy of a file of the set, after downloading it where it is not here."""
        path = self.directory / file
        if self._touch(path):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / "locks" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.lock"):
            if not self._touch(path):
                self._download(file, path)
        return path

    def prefetch(self, files: Iterable[str]) -> None:
        """Begin to fetch files in the background. A failure shows when the file is needed."""
        for name, future in list(self._coming.items()):
            if future.done():
                del self._coming[name]
        for file in files:
            if file not in self._coming and not (self.directory / file).exists():
                self._coming[file] = self._background.submit(self.fetch, file)

    def close(self) -> None:
        """End the background downloads."""
        self._background.shutdown(wait=False, cancel_futures=True)

    def _touch(self, path: Path) -> bool:
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _download(self, file: str, path: Path) -> None:
        temporary = path.with_name(path.name + ".part")
        url = f"{self.url}/{file}"
        again = with_pauses(ATTEMPTS - 1, self.sleep, _worth_another)
        try:
            again(self._copy, url, temporary, self.hashes[file])
        except FileNotFoundError:
            raise UserError(f"{url} is missing, though the manifest names it; upload the set again") from None
        except Exception as error:  # file systems raise the errors of their own libraries
            temporary.unlink(missing_ok=True)
            attempts = again.statistics["attempt_number"]
            raise UserError(f"cannot fetch {url} to {self.root} in {attempts} attempts: {short(error)}") from None
        self._evict(temporary.stat().st_size)
        temporary.replace(path)

    def _copy(self, url: str, target: Path, expected: str) -> None:
        digest = hashlib.sha256()
        with fsspec.open(url, "rb", **self.storage) as source, target.open("wb") as out:
            while block := source.read(1 << 22):
                digest.update(block)
                out.write(block)
        if digest.hexdigest() != expected:
            raise OSError("its content is not what the manifest says")

    def _evict(self, coming: int) -> None:
        """Remove the files that were used least recently until the coming one fits. Of all sets in the cache."""
        files = []
        for path in self.root.rglob("*.*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.suffix in (".bin", ".xxh", ".docs"):
                    state = path.stat()
                    files.append((state.st_mtime, state.st_size, path))
        used = sum(size for _, size, _ in files) + coming
        for _, size, path in sorted(files):
            if used <= self.config.max_bytes:
                return
            path.unlink(missing_ok=True)
            used -= size

    def clear(self) -> None:
        """Remove the copies of this set."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _worth_another(error: BaseException) -> bool:
    return may_pass(error) and getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT)
