"""Kubernetes through its official client, where that is installed; rendering needs nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.backends.jobset import API, manifests, render_manifests
from launch.backends.logs import attempt_logs, newest_logs
from launch.backends.slurm_states import array_status
from launch.job import JobSpec, JobState, JobStatus
from trainer.errors import UserError

_TERMINAL = {"Completed": JobState.DONE, "Failed": JobState.FAILED}


class KubernetesBackend:
    """Submits JobSets. `clients` returns the client's (CustomObjectsApi, CoreV1Api)."""

    def __init__(
        self,
        *,
        python: str,
        directory: str,
        secrets: tuple[str, ...] = (),
        namespace: str = "default",
        clients: Callable[[], tuple[Any, Any]] | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.python = python
        self.directory = directory
        self.secrets = secrets
        self.namespace = namespace
        self.clients = clients or official_clients
        self.pause = pause
        self.run_dirs: dict[str, tuple[Path, ...]] = {}

    def render(self, spec: JobSpec) -> str:
        """Return the manifests as YAML, for `kubectl apply -f -`."""
        return render_manifests(self._manifests(spec))

    def rehearse(self, spec: JobSpec) -> None:
        """Have the API server judge the JobSets and keep none. Raises UserError."""
        self._create(self._manifests(spec), dry_run="All")

    def submit(self, spec: JobSpec) -> str:
        """Create the JobSets. The id of an array is its names, joined by commas."""
        documents = self._manifests(spec)
        self._create(documents)
        job = ",".join(document["metadata"]["name"] for document in documents)
        self.adopt(job, tuple(task.run_dir for task in spec.tasks))
        return job

    def adopt(self, job: str, run_dirs: tuple[Path, ...]) -> None:
        """Take up a job that an earlier process submitted."""
        self.run_dirs[job] = run_dirs

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        """Ask once for all JobSets of the namespace."""
        custom, _ = self.clients()
        with _explained("list the JobSets"):
            answer = custom.list_namespaced_custom_object(*API[:2], self.namespace, API[2])
        found = {item["metadata"]["name"]: _status(item) for item in answer["items"]}
        gone = JobStatus(JobState.CANCELLED, reason="there is no such JobSet any more")
        return {job: _joined([found.get(name, gone) for name in job.split(",")]) for job in ids}

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield rank logs where the run directory is visible here, else what the agents print in their pods."""
        run_dirs = self.run_dirs.get(job, ())
        if len(run_dirs) == 1 and (run_dirs[0] / "logs").is_dir() and not follow:
            yield from attempt_logs(newest_logs(run_dirs[0]), rank)
            return
        _, core = self.clients()
        for name in job.split(","):
            with _explained(f"list the pods of {name}"):
                pods = core.list_namespaced_pod(self.namespace, label_selector=f"jobset.sigs.k8s.io/jobset-name={name}")
            for pod in pods.items:
                text = core.read_namespaced_pod_log(pod.metadata.name, self.namespace, container="trainer")
                yield from (f"[{pod.metadata.name}] {line}" for line in text.splitlines())

    def cancel(self, job: str) -> None:
        """Delete the JobSets with their pods, which get SIGTERM and time to save."""
        custom, _ = self.clients()
        for name in job.split(","):
            with _explained(f"delete {name}"):
                custom.delete_namespaced_custom_object(
                    *API[:2], self.namespace, API[2], name, propagation_policy="Foreground"
                )

    def _create(self, documents: list[dict[str, Any]], **how: str) -> None:
        custom, _ = self.clients()
        for document in documents:
            with _explained(f"create {document['metadata']['name']}"):
                custom.create_namespaced_custom_object(*API[:2], self.namespace, API[2], document, **how)

    def _manifests(self, spec: JobSpec) -> list[dict[str, Any]]:
        documents = manifests(spec, python=self.python, directory=self.directory, secrets=self.secrets)
        self.namespace = documents[0]["metadata"]["namespace"]
        return documents


def official_clients() -> tuple[Any, Any]:
    """Return the official client's interfaces, set up from kubeconfig. Raises UserError where it is not installed."""
    if importlib.util.find_spec("kubernetes") is None:
        raise UserError(
            "the Kubernetes client is not installed: `pip install kubernetes`, "
            "or pipe `escala render ...` to `kubectl apply -f -`"
        )
    from kubernetes import client, config

    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints where it looks; our output may be JSON
            config.load_config()
    except config.ConfigException as error:
        raise UserError(f"no Kubernetes cluster is configured here ({error}): set KUBECONFIG") from None
    return client.CustomObjectsApi(), client.CoreV1Api()


class _explained:  # noqa: N801  (read as a statement: `with _explained(...):`)
    """Turn the client's errors into one sentence."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        status = getattr(error, "status", None)
        if error is None or isinstance(error, UserError):
            return
        if status == 404:
            hint = "is the JobSet controller installed, and does the namespace exist?"
        elif status == 409:
            hint = "one of that name exists: cancel it, or give the run another name"
        elif status is not None:
            hint = str(getattr(error, "reason", ""))
        elif type(error).__module__.startswith("urllib3"):
            hint = "the cluster's API server cannot be reached"
        else:
            return
        raise UserError(f"Kubernetes did not {self.what}: {hint} (status {status})") from None


def _status(item: dict[str, Any]) -> JobStatus:
    status = item.get("status") or {}
    terminal = _TERMINAL.get(status.get("terminalState", ""))
    restarts = status.get("restarts", 0)
    if terminal is not None:
        reasons = [c.get("message", "") for c in status.get("conditions", []) if c.get("status") == "True"]
        return JobStatus(terminal, 0 if terminal is JobState.DONE else None, reason="; ".join(filter(None, reasons)))
    jobs = status.get("replicatedJobsStatus") or []
    active = any(job.get("active", 0) for job in jobs)
    reason = f"restarted {restarts} times" if restarts else ""
    return JobStatus(JobState.RUNNING if active else JobState.PENDING, reason=reason)


def _joined(statuses: list[JobStatus]) -> JobStatus:
    return statuses[0] if len(statuses) == 1 else array_status(statuses)
