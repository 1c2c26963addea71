"""A W&B server on loopback: as much of its protocol as the client needs to bring a run online, and what arrives.

It speaks GraphQL and `file_stream` as wandb 0.31 does. `fault` makes it refuse or delay every request; `hold` keeps
every answer back until `release`; `stop` ends it, and `start` opens the same port again with the same runs.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """Runs by their id, with the rows of their history in the order in which the server keeps them."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.payloads: list[bytes] = []
        self.requests: list[str] = []
        self.alerts: list[dict[str, Any]] = []
        self.artifacts: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.status, self.delay, self.port = 0, 0.0, 0
        self.before_answer: Callable[[], None] = lambda: None  # called once a request is among the payloads
        self.answers = 0  # without an error
        self.lock, self.open = threading.Lock(), threading.Event()
        self.open.set()
        self._http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        server = self

        class Bound(_Handler):
            wandb = server

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that is killed resets its connections."""

        self._http = Quiet(("127.0.0.1", self.port), Bound)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.release()
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def fault(self, status: int = 0, delay: float = 0.0) -> None:
        """Answer every request with this status, after so many seconds; heal with neither."""
        self.status, self.delay = status, delay

    def hold(self) -> None:
        """Take requests in, and answer none of them."""
        self.open.clear()

    def release(self) -> None:
        """Answer what was held back, and what comes."""
        self.open.set()

    def run(self, name: str) -> dict[str, Any]:
        fresh: dict[str, Any] = {
            "config": {},
            "tags": [],
            "group": None,
            "jobType": None,
            "history": [],
            "summary": {},
            "exitcode": None,
            "events": [],
            "project": "",
        }
        return self.runs.setdefault(name, fresh)

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a run without what the client adds."""
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in self.runs[name]["history"]]


class _Handler(BaseHTTPRequestHandler):
    wandb: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if (length := self.headers.get("Content-Length")) is not None:
            data = self.rfile.read(int(length))
        else:
            data = b""
            while "chunked" in self.headers.get("Transfer-Encoding", ""):
                size = int(self.rfile.readline().strip() or b"0", 16)
                if size == 0:
                    self.rfile.readline()
                    break
                data += self.rfile.read(size)
                self.rfile.readline()
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _send(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self) -> None:
        data = self._body()
        with self.wandb.lock:
            self.wandb.payloads.append(data)
        self.wandb.before_answer()
        time.sleep(self.wandb.delay)
        self.wandb.open.wait()
        if self.wandb.status:
            return self._send({"error": "planted"}, self.wandb.status)
        with self.wandb.lock:
            self.wandb.answers += 1
        if self.path == "/graphql":
            return self._graphql(json.loads(data))
        if found := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            return self._stream(found[1], json.loads(data))
        if self.path.startswith("/_upload/"):
            self.wandb.uploads[self.path.removeprefix("/_upload/")] = data
        return self._send({})

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - the names that http.server calls

    def _stream(self, name: str, posted: dict[str, Any]) -> None:
        with self.wandb.lock:
            run = self.wandb.run(name)
            for file, chunk in (posted.get("files") or {}).items():
                if file == "wandb-history.jsonl":
                    offset, rows = chunk.get("offset", 0), [json.loads(row) for row in chunk["content"]]
                    run["history"][offset : offset + len(rows)] = rows  # a chunk that is sent again lands on itself
                elif file == "wandb-events.jsonl":
                    run["events"] += [json.loads(row) for row in chunk["content"]]
                elif file == "wandb-summary.json":
                    run["summary"] = json.loads(chunk["content"][-1])
            if posted.get("exitcode") is not None:
                run["exitcode"] = posted["exitcode"]
        self._send({"exitcode": None, "limits": {}})

    def _graphql(self, asked: dict[str, Any]) -> None:
        text, values = asked.get("query", ""), asked.get("variables") or {}
        name = asked.get("operationName") or (re.search(r"(?:query|mutation)\s+(\w+)", text) or ["", ""])[1]
        self.wandb.requests.append(name)
        answer = getattr(self, f"_{name.lower()}", None)
        self._send({"data": answer(values) if answer else {}})

    def _viewer(self, values: dict[str, Any]) -> dict[str, Any]:
        nobody: dict[str, list[Any]] = {"edges": []}
        viewer = {"id": "u", "entity": "local", "username": "local", "flags": "{}", "teams": nobody, "apiKeys": nobody}
        return {"viewer": viewer, "serverInfo": {"cliVersionInfo": None, "latestLocalVersionInfo": None}}

    def _upsertbucket(self, values: dict[str, Any]) -> dict[str, Any]:
        name = values.get("name") or values.get("id")
        with self.wandb.lock:
            known = name in self.wandb.runs
            run = self.wandb.run(str(name))
            if values.get("config"):
                run["config"] = json.loads(values["config"])
            run["tags"] = values.get("tags") or run["tags"]
            run["project"] = values.get("project") or run["project"]
            run["group"] = values.get("groupName") or run["group"]
            run["jobType"] = values.get("jobType") or run["jobType"]
        project = {"id": "p", "name": values.get("project"), "entity": {"id": "e", "name": "local"}}
        bucket = {
            "id": base64.b64encode(f"Run:v1:{name}".encode()).decode(), "name": name, "displayName": name,
            "config": "{}", "sweepName": None, "historyLineCount": len(run["history"]), "project": project,
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": not known}}

    def _runresumestatus(self, values: dict[str, Any]) -> dict[str, Any]:
        name, bucket = values.get("name"), None
        with self.wandb.lock:
            if run := self.wandb.runs.get(str(name)):
                bucket = {
                    "name": name, "id": "r", "historyLineCount": len(run["history"]), "eventsLineCount": 0,
                    "logLineCount": 0, "historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]),
                    "eventsTail": "[]", "summaryMetrics": json.dumps(run["summary"]), "displayName": name,
                    "config": json.dumps(run["config"]), "tags": run["tags"], "wandbConfig": '{"t": 1}',
                }  # fmt: skip
        entity = {"id": "e", "name": "local"}
        return {"model": {"id": "p", "name": values.get("project"), "entity": entity, "bucket": bucket}}

    def _createrunfiles(self, values: dict[str, Any]) -> dict[str, Any]:
        name, host = values.get("run"), self.headers["Host"]
        files = [{"name": f, "uploadUrl": f"http://{host}/_upload/{name}/{f}"} for f in values.get("files", [])]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def _runstoppedstatus(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"stopped": False}}}

    def _getdefaultentity(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u", "entity": "local"}}

    def _run(self, values: dict[str, Any]) -> dict[str, Any]:
        name = str(values["name"])
        run = self.wandb.runs.get(name)
        found = run and {
            "id": "r", "projectId": "1", "tags": run["tags"], "name": name, "displayName": name, "sweepName": None,
            "state": "running", "config": "{}", "group": run["group"], "jobType": run["jobType"], "commit": None,
            "readOnly": False, "createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00",
            "description": None, "notes": None, "systemMetrics": "{}", "summaryMetrics": "{}", "historyKeys": None,
            "historyLineCount": len(run["history"]), "user": {"name": "local", "username": "local"},
        }  # fmt: skip
        return {"project": {"run": found}}

    def _notifyscriptablerunalert(self, values: dict[str, Any]) -> dict[str, Any]:
        self.wandb.alerts.append(values)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _artifacttype(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _createartifact(self, values: dict[str, Any]) -> dict[str, Any]:
        self.wandb.artifacts.append(values["input"])
        artifact = {"id": f"a{len(self.wandb.artifacts)}", "state": "PENDING", "artifactSequence": _SEQUENCE}
        return {"createArtifact": {"artifact": artifact}}

    def _createartifactmanifest(self, values: dict[str, Any]) -> dict[str, Any]:
        name = values["name"]
        place = f"http://{self.headers['Host']}/_upload/{values['artifactID']}/{name}"
        file = {"id": "f", "name": name, "displayName": name, "uploadUrl": place, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _createartifactfiles(self, values: dict[str, Any]) -> dict[str, Any]:
        edges = [
            {"node": {
                "id": "f", "name": spec["name"], "displayName": spec["name"], "storagePath": None, "uploadHeaders": [],
                "uploadUrl": f"http://{self.headers['Host']}/_upload/{spec['artifactID']}/{spec['name']}",
                "uploadMultipartUrls": None, "artifact": {"id": spec["artifactID"]},
            }}
            for spec in values["input"]["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commitartifact(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"commitArtifact": {"artifact": {"id": values["artifactID"], "digest": "d"}}}


_SEQUENCE = {"id": "s", "latestArtifact": None}
