"""The Kubernetes backend through the official client, against a small server that answers as the API does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from launch.backends.kubernetes import KubernetesBackend, official_clients
from launch.job import JobSpec, JobState, Task
from trainer.errors import UserError

client = pytest.importorskip("kubernetes.client")
BASE = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets"


class Api(BaseHTTPRequestHandler):
    """Keeps what is posted. `sets` and `installed` are set by the tests."""

    sets: dict[str, dict[str, Any]]
    installed = True

    def answer(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        path, _, query = self.path.partition("?")
        if not Api.installed or path != BASE:
            self.answer(404, {"kind": "Status", "code": 404})
        elif name in Api.sets:
            self.answer(409, {"kind": "Status", "code": 409})
        else:
            if query != "dryRun=All":
                Api.sets[name] = body
            self.answer(201, body)

    def do_GET(self) -> None:
        self.answer(200, {"items": list(Api.sets.values())})

    def do_DELETE(self) -> None:
        name = self.path.rpartition("/")[2].partition("?")[0]
        self.answer(200 if Api.sets.pop(name, None) else 404, {"kind": "Status"})

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def backend() -> Iterator[KubernetesBackend]:
    Api.sets, Api.installed = {}, True
    server = HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api = client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{server.server_port}"))
    clients = (client.CustomObjectsApi(api), client.CoreV1Api(api))
    yield KubernetesBackend(python="python3", directory="/w", clients=lambda: clients)
    server.shutdown()
    server.server_close()


def spec(name: str = "tiny", **more: Any) -> JobSpec:
    return JobSpec(name, ("-m", "trainer.train"), Path("/runs/tiny"), **{"container": "image", **more})


def test_a_job_is_created_watched_and_deleted(backend: KubernetesBackend) -> None:
    job = backend.submit(spec())
    assert job == "tiny" and Api.sets["tiny"]["kind"] == "JobSet"
    states = [
        ({}, JobState.PENDING),
        ({"replicatedJobsStatus": [{"name": "node", "active": 1}], "restarts": 2}, JobState.RUNNING),
        ({"terminalState": "Completed"}, JobState.DONE),
        ({"terminalState": "Failed", "conditions": [{"status": "True", "message": "why"}]}, JobState.FAILED),
    ]
    for status, state in states:
        Api.sets["tiny"]["status"] = status
        assert backend.status([job])[job].state is state
    assert backend.status([job])[job].reason == "why"
    backend.cancel(job)
    assert not Api.sets
    assert backend.status([job])[job].state is JobState.CANCELLED


def test_an_array_is_a_set_for_each_task(backend: KubernetesBackend) -> None:
    tasks = tuple(Task(name, ("-m", "x"), Path(f"/runs/{name}")) for name in ("a", "b"))
    job = backend.submit(spec(array=tasks))
    assert job == "a,b"
    Api.sets["a"]["status"] = {"terminalState": "Completed"}
    assert backend.status([job])[job].reason == "1 of 2 done"


def test_the_clients_errors_become_one_sentence(backend: KubernetesBackend) -> None:
    backend.rehearse(spec())
    assert not Api.sets, "a rehearsal leaves nothing"
    backend.submit(spec())
    for begin in (backend.rehearse, backend.submit):
        Api.installed = True
        with pytest.raises(UserError, match="one of that name exists"):
            begin(spec())
        Api.installed = False
        with pytest.raises(UserError, match="is the JobSet controller installed"):
            begin(spec("other"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"container": None}, "Kubernetes runs images"),
        ({"after": ("1",)}, "no dependencies"),
        ({"array": (Task("a", ("x",), Path("/a")),), "array_cap": 2}, "Kueue `queue`"),
    ],
)
def test_what_kubernetes_cannot_do_is_refused(backend: KubernetesBackend, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backend.render(spec(**changes))


def test_secrets_need_a_secret() -> None:
    with pytest.raises(UserError, match=r"WANDB_API_KEY must come from a Secret"):
        KubernetesBackend(python="p", directory="/w", secrets=("WANDB_API_KEY",)).render(spec())


def test_no_cluster_is_said_plainly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match="no Kubernetes cluster is configured here"):
        official_clients()
