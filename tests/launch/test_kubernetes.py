"""The Kubernetes backend through the official client, against a small server that answers as the API does."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launch.cluster.job import JobSpec, JobState, Requeue, Task
from launch.cluster.kubernetes import pod_logs
from launch.cluster.kubernetes.backend import KubernetesBackend
from launch.cluster.kubernetes.client import official_clients
from launch.cluster.kubernetes.options import check_quantity
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status
from trainer.node.first_failure import Ending

client = pytest.importorskip("kubernetes.client")
BASE = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets"


class Api(BaseHTTPRequestHandler):
    """Keeps what is posted. `sets` and `installed` are set by the tests."""

    sets: dict[str, dict[str, Any]]
    jobs: list[dict[str, Any]]
    pods: list[dict[str, Any]]
    installed = True
    logs: dict[str, queue.Queue[bytes | None]]  # what pods print, in pieces; None where the stream ends
    protocol_version = "HTTP/1.1"  # the client streams what comes in chunks

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
        path, _, query = self.path.partition("?")
        name = path.removeprefix(f"{BASE}/")
        if path == BASE:
            self.answer(200, {"items": list(Api.sets.values())})
        elif name in Api.sets:
            self.answer(200, Api.sets[name])
        elif path.endswith("/log") and path.split("/")[-2] in Api.logs:
            self.stream(Api.logs[path.split("/")[-2]])
        elif path.endswith(("/jobs", "/pods")) and "jobset-name" in query:
            self.answer(200, {"items": Api.jobs if path.endswith("/jobs") else Api.pods})
        else:
            self.answer(404, {"kind": "Status", "code": 404})

    def stream(self, pieces: queue.Queue[bytes | None]) -> None:
        """Answer as the API server does to `follow`: in chunks, for as long as the container runs."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while (piece := pieces.get()) is not None:
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def do_DELETE(self) -> None:
        name = self.path.rpartition("/")[2].partition("?")[0]
        self.answer(200 if Api.sets.pop(name, None) else 404, {"kind": "Status"})

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def backend() -> Iterator[KubernetesBackend]:
    Api.sets, Api.jobs, Api.pods, Api.installed, Api.logs = {}, [], [], True, {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
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
        with pytest.raises(UserError, match="JobSet tiny of /runs/tiny runs: cancel it"):
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


def test_a_finished_set_of_the_run_makes_room_and_no_other_does(backend: KubernetesBackend) -> None:
    backend.submit(spec())
    first = Api.sets["tiny"]
    first["status"] = {"terminalState": "Failed"}
    backend.rehearse(spec())
    assert Api.sets["tiny"] is first, "a rehearsal removes nothing"
    backend.submit(spec())
    assert Api.sets["tiny"] is not first and "status" not in Api.sets["tiny"]
    Api.sets["tiny"]["status"] = {"terminalState": "Completed"}
    Api.sets["tiny"]["metadata"]["annotations"]["escala/run-dir"] = "/runs/of another/tiny"
    with pytest.raises(UserError, match="a finished JobSet tiny of /runs/of another/tiny exists"):
        backend.submit(spec())


def pod(name: str, *, node: str = "n7", terminated: dict | None = None, waiting: dict | None = None) -> dict[str, Any]:
    state = {"terminated": terminated} if terminated else {"waiting": waiting} if waiting else {"running": {}}
    status = {
        "phase": "Failed" if terminated else "Running",
        "containerStatuses": [{"name": "trainer", "state": state}],
    }
    return {"metadata": {"name": name}, "spec": {"nodeName": node}, "status": status}


DEADLINE = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "Job was active too long"}


def failed(backend: KubernetesBackend) -> Any:
    job = backend.submit(spec())
    conditions = [{"status": "True", "message": "jobset failed"}]
    Api.sets[job]["status"] = {"terminalState": "Failed", "conditions": conditions}
    return backend.status([job])[job]


def test_a_time_limit_is_no_failure(backend: KubernetesBackend) -> None:
    Api.jobs = [{"metadata": {"name": "tiny-node-0"}, "status": {"conditions": [DEADLINE]}}]
    status = failed(backend)
    assert status.state is JobState.PREEMPTED and "time limit" in status.reason


@pytest.mark.parametrize(("times", "action"), [(3, "RestartJobSetAndIgnoreMaxRestarts"), (0, "FailJobSet")])
def test_a_run_goes_on_after_its_limit_where_the_policy_says_so(times: int, action: str) -> None:
    text = KubernetesBackend(python="p", directory="/w").render(spec(time_limit=60, requeue=Requeue(on_timeout=times)))
    rules = yaml.safe_load(text)["spec"]["failurePolicy"]["rules"]
    assert [r["action"] for r in rules if "DeadlineExceeded" in r["onJobFailureReasons"]] == [action]


def test_a_failure_names_the_pod_its_node_and_the_kernel(backend: KubernetesBackend) -> None:
    killed = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:01Z"}
    victim = {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:00:09Z"}
    Api.pods = [pod("tiny-node-0-0", terminated=victim), pod("tiny-node-0-1", node="n8", terminated=killed)]
    status = failed(backend)
    assert (status.state, status.exit_code) == (JobState.FAILED, 137)
    assert status.reason == "tiny-node-0-1 on n8 ended with exit code 137 (OOMKilled)"


def test_the_ranks_own_record_is_preferred_where_it_can_be_seen(backend: KubernetesBackend, tmp_path: Path) -> None:
    logs = tmp_path / "tiny" / "logs" / "1"
    logs.mkdir(parents=True)
    Ending(3, "pod-1", 1, 1.0, "ValueError: no").write(logs)
    job = backend.submit(JobSpec("tiny", ("x",), tmp_path / "tiny", container="image"))
    Api.sets[job]["status"] = {"terminalState": "Failed"}
    status = backend.status([job])[job]
    assert status.failure is not None and status.reason == "rank 3 on pod-1 ended with exit code 1: ValueError: no"


@pytest.mark.parametrize(
    ("waits", "reason"),
    [
        (pod("p", waiting={"reason": "ImagePullBackOff", "message": "no such image"}), "p: ImagePullBackOff: no such"),
        (
            {
                "metadata": {"name": "p"},
                "status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: taint"}]},
            },
            "p waits for a node: 0/3 nodes: taint",
        ),
        (pod("p", waiting={"reason": "ContainerCreating"}), ""),
    ],
)
def test_what_does_not_start_says_why(backend: KubernetesBackend, waits: dict, reason: str) -> None:
    job = backend.submit(spec())
    Api.pods = [waits]
    status = backend.status([job])[job]
    assert status.state is JobState.PENDING and status.reason.startswith(reason)


def test_a_set_that_was_removed_after_its_end_is_done(backend: KubernetesBackend, tmp_path: Path) -> None:
    RunDir(tmp_path).write_status(Status.DONE)
    backend.adopt("tiny", (tmp_path,))
    assert backend.status(["tiny"])["tiny"].state is JobState.DONE
    RunDir(tmp_path).write_status(Status.FAILED)
    RunDir(tmp_path).record_event("failed", error="disk full")
    gone = backend.status(["tiny"])["tiny"]
    assert (gone.state, gone.reason) == (JobState.FAILED, "disk full")


FULL = {
    "namespace": "training",
    "cpus": 8,
    "memory": "64Gi",
    "extra_resources": {"rdma/hca": 1, "vpc.amazonaws.com/efa": 4},
    "image_pull_secrets": ["registry"],
    "node_selector": {"cloud.google.com/gke-nodepool": "h100"},
    "tolerations": [
        {"key": "nvidia.com/gpu", "effect": "NoSchedule"},
        {"key": "team", "value": "a", "effect": "NoExecute", "seconds": 60},
        {},
    ],
    "labels": {"team": "a", "cost/centre": 7},
    "annotations": {"sidecar.istio.io/inject": False, "note": "any [text]"},
    "ttl_seconds": 3600,
    "queue": "gpu",
}


def test_all_options_are_valid_for_the_api() -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    models = pytest.importorskip("kubeflow_trainer_api.models")
    text = KubernetesBackend(python="p", directory="/w").render(spec(extras=FULL, gpu="H100-SXM", ranks_per_node=8))
    document = yaml.safe_load(text)
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job}, "1.37", strict=True)
    assert models.JobsetV1alpha2JobSet.from_dict(document).to_dict() == document, "a key that JobSet does not know"
    assert document["spec"]["ttlSecondsAfterFinished"] == 3600
    pod_spec = job["template"]["spec"]
    assert pod_spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "a", "effect": "NoExecute", "tolerationSeconds": 60},
        {"operator": "Exists"},
    ]
    assert pod_spec["imagePullSecrets"] == [{"name": "registry"}]
    resources = pod_spec["containers"][0]["resources"]
    assert resources["limits"] == {"nvidia.com/gpu": 8, "rdma/hca": "1", "vpc.amazonaws.com/efa": "4"}
    assert resources["requests"] == {"cpu": "8", "memory": "64Gi"}
    assert job["template"]["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false", "note": "any [text]"}


@pytest.mark.parametrize(
    ("more", "gpus"),
    [({}, None), ({"gpu": "H100-SXM", "ranks_per_node": 4}, 4), ({"extras": {"gpus_per_node": 2}}, 2)],
)
def test_gpus_are_asked_for_where_ranks_use_them(more: dict, gpus: int | None) -> None:
    document = yaml.safe_load(KubernetesBackend(python="p", directory="/w").render(spec(**more)))
    container = document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"].get("limits", {}).get("nvidia.com/gpu") == gpus


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "64GB"}, "'memory': expected a quantity.*GB is not one.*given: '64GB'"),
        ({"cpus": 0}, "'cpus': expected a quantity"),
        ({"shared_memory": "16 Gi"}, "'shared_memory': expected a quantity"),
        ({"namespace": "My_Team"}, "'namespace': expected at most 63 lower-case"),
        ({"namespace": "a" * 64}, "'namespace'"),
        ({"node_selector": {"bad key": "x"}}, "'bad key' is no key"),
        ({"labels": {"a": "b c"}}, "'b c' is no label's value"),
        ({"secret": "Upper"}, "'secret': expected the name of an object"),
        ({"volume_path": "runs"}, "'volume_path': expected a whole path"),
        ({"tolerations": [{"operator": "Exists", "value": "x"}]}, "Exists takes no value"),
        ({"tolerations": [{"value": "x", "operator": "Equal"}]}, "Equal needs a key"),
        ({"extra_resources": {"cpu": 1}}, "cpu has an option of its own"),
        ({"ttl_second": 5}, r"unknown key 'ttl_second' \(did you mean 'ttl_seconds'\?\)"),
    ],
)
def test_what_the_api_would_refuse_is_refused_with_its_key(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        KubernetesBackend(python="p", directory="/w").render(spec(extras=options))


@given(st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,2})?(Ki|Mi|Gi|Ti|m|k|M|G|T|e[0-9])?", fullmatch=True))
def test_quantities_are_those_of_the_official_client(text: str) -> None:
    parse = pytest.importorskip("kubernetes.utils.quantity").parse_quantity
    try:
        assert check_quantity(text) == text
        assert parse(text) > 0
    except ValueError:
        assert parse(text) == 0


def test_a_pod_without_a_log_is_said_in_one_sentence(backend: KubernetesBackend) -> None:
    backend.submit(spec())
    Api.pods = [{"metadata": {"name": "tiny-node-0"}}]
    with pytest.raises(UserError, match="Kubernetes did not give the log of pod tiny-node-0"):
        list(backend.logs("tiny"))


def prints(pod: str, *pieces: bytes | None) -> None:
    for piece in pieces:
        Api.logs.setdefault(pod, queue.Queue()).put(piece)


def begun(name: str, how: str = "running") -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"containerStatuses": [{"name": "trainer", "state": {how: {}}}]}}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_logs, "PAUSE_SECONDS", 0.2)


def told(lines: Iterator[str], wanted: str) -> list[str]:
    """Take lines up to one that is wanted."""
    taken = []
    for line in lines:
        taken.append(line)
        if line == wanted:
            return taken
    raise AssertionError(f"{wanted!r} is not among {taken}")


@pytest.mark.usefixtures("quick")
def test_logs_are_followed_through_waiting_restarts_and_the_end(backend: KubernetesBackend) -> None:
    job = backend.submit(spec())
    message = "0/3 nodes: taint"
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    Api.pods = [{"metadata": {"name": "p0"}, "status": {"conditions": [condition]}}]
    lines = backend.logs(job, follow=True)
    assert next(lines) == f"job tiny is pending: p0 waits for a node: {message}"
    prints("p0", b"attempt 1 of job u\n[0] step 1\n[1] st", b"ep 1\n[0] caf\xc3", b"\xa9 [/x]\n")
    prints("p1", b"[2] step 1\n")
    Api.pods = [begun("p0"), begun("p1")]
    Api.sets[job]["status"] = {"replicatedJobsStatus": [{"name": "node", "active": 2}]}
    seen = [line for _, line in zip(range(6), lines, strict=False)]
    assert "job tiny is running" in seen
    of_p0 = [line for line in seen if line not in ("job tiny is running", "[2] step 1")]
    assert (
        of_p0 == ["[p0] attempt 1 of job u", "[0] step 1", "[1] step 1", "[0] caf\u00e9 [/x]"] and "[2] step 1" in seen
    )
    prints("p0", None)  # the set restarts: other pods come
    prints("p1", None)
    prints("p2", b"[0] step 2\n")
    Api.pods = [begun("p0", "terminated"), begun("p2")]
    Api.sets[job]["status"] |= {"restarts": 1}
    assert told(lines, "[0] step 2")[0] in ("job tiny is running: restarted 1 times", "[0] step 2")
    prints("p2", b"[0] the last line has no end", None)
    Api.pods = [begun("p2", "terminated")]
    Api.sets[job]["status"] = {"terminalState": "Failed", "conditions": [{"status": "True", "message": "why"}]}
    rest = list(lines)
    assert rest[-2:] == ["[0] the last line has no end", "job tiny is failed: why"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("follow", [True, False])
def test_one_rank_is_shown_alone(backend: KubernetesBackend, follow: bool) -> None:
    job = backend.submit(spec())
    prints("p0", b"attempt 1 of job u\n[1] not this\n[11] nor this\n", None)
    prints("p1", b"[3] this\n[2] no\n[3] [1] and this\n", None)
    Api.pods = [begun("p0", "terminated"), begun("p1", "terminated")]
    Api.sets[job]["status"] = {"terminalState": "Completed"}
    assert list(backend.logs(job, rank=3, follow=follow)) == ["this", "[1] and this"]


@pytest.mark.usefixtures("quick")
def test_a_stream_that_breaks_off_goes_on_where_it_was(backend: KubernetesBackend) -> None:
    """The API server ends long streams. What it gives again from the beginning is not shown twice."""
    job = backend.submit(spec())
    Api.pods = [begun("p0")]
    Api.sets[job]["status"] = {"replicatedJobsStatus": [{"name": "node", "active": 1}]}
    prints("p0", b"[0] one\n[0] two\n", None)
    lines = backend.logs(job, rank=0, follow=True)
    assert told(lines, "two")[-2:] == ["one", "two"]
    prints("p0", b"[0] one\n[0] two\n[0] three\n", None, b"[0] one\n[0] two\n[0] three\n", None)
    assert told(lines, "three") == ["three"]
    Api.sets[job]["status"] = {"terminalState": "Completed"}
    Api.pods = [begun("p0", "terminated")]
    assert list(lines) == []


@pytest.mark.usefixtures("quick")
def test_a_job_that_left_no_pods_shows_its_run_directory(backend: KubernetesBackend, tmp_path: Path) -> None:
    RunDir(tmp_path).logs(1).mkdir(parents=True)
    (RunDir(tmp_path).logs(1) / "rank_0.log").write_text("step 1\n")
    RunDir(tmp_path).write_status(Status.DONE)
    backend.adopt("tiny", (tmp_path,))
    assert list(backend.logs("tiny", rank=0, follow=True)) == ["step 1"]
