"""A Hugging Face hub of a few files on this machine: as much of its HTTP interface as streaming a dataset asks for."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import time
from collections import defaultdict
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """Serves `repositories`: `org/name` -> path -> content.

    `limited[path]` answers are `429 Too Many Requests` with `Retry-After: 1`; paths in `silent` are never answered.
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.limited: dict[str, int] = {}
        self.silent: set[str] = set()
        self.asked: dict[str, list[float]] = defaultdict(list)  # path -> times
        self.ended = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked[path].append(time.monotonic())
        if path in self.server.silent:
            self.server.ended.wait()
            self.close_connection = True
        elif self.server.limited.get(path, 0) > 0:
            self.server.limited[path] -= 1
            self._send(429, b'{"error": "rate limit"}', **{"Retry-After": "1"})
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(tree|paths-info|revision)/([^/]+)/?(.*))?", path):
            self._describe(match[1], match[2] or "revision", match[4] or "", body)
        elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._content(match[1], match[2])
        else:
            self._send(404, b"{}")

    def _describe(self, name: str, what: str, below: str, body: bytes) -> None:
        files = self.server.repositories.get(name)
        if files is None:
            self._send(404, b'{"error": "Repository not found"}', **{"X-Error-Code": "RepoNotFound"})
        elif what == "revision":
            self._json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})
        else:
            wanted = json.loads(body)["paths"] if what == "paths-info" else None
            entries = [*_files(files), *_folders(files)]
            within = [e for e in entries if not below or e["path"].startswith(f"{below}/")]
            self._json([e for e in within if wanted is None or e["path"] in wanted])

    def _content(self, name: str, path: str) -> None:
        content = self.server.repositories.get(name, {}).get(path)
        if content is None:
            self._send(404, b"", **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            if begin >= len(content):
                self._send(416, b"")
                return
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
            self._send(206, content[begin : end + 1], **headers)
        else:
            self._send(200, content, **headers)

    def _json(self, values: Any) -> None:
        self._send(200, json.dumps(values).encode(), **{"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _files(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [{"type": "file", "path": path, "size": len(raw), "oid": _oid(raw)} for path, raw in files.items()]


def _folders(files: dict[str, bytes]) -> list[dict[str, Any]]:
    parents = {"/".join(parts[:n]) for path in files for parts in [path.split("/")] for n in range(1, len(parts))}
    return [{"type": "directory", "path": path, "size": 0, "oid": _oid(path.encode())} for path in sorted(parents)]
