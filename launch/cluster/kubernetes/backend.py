"""Kubernetes through its official client, where that is installed; rendering needs nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.cluster.ended import by_record, failed_by_record
from launch.cluster.followed_status import FollowedStatus
from launch.cluster.job import NOBODY, JobIdentity, JobSpec, JobState, JobStatus, array_status
from launch.cluster.kubernetes.client import api_errors, official_clients
from launch.cluster.kubernetes.ends import LABEL as SET_LABEL
from launch.cluster.kubernetes.ends import explained, set_status, waiting
from launch.cluster.kubernetes.jobset import API, CONTAINER, RUN_DIR, manifests, render_manifests
from launch.cluster.kubernetes.pod_logs import PodFollower, line_of
from launch.cluster.logs import attempt_logs, first_failure, newest_logs
from trainer.contract.attempts import attempts
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir

JOBS, PODS = ("batch", "v1", "jobs"), ("", "v1", "pods")
REMOVAL_SECONDS = 120


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
        documents = self._manifests(spec)
        for document in documents:
            if self._finished_before(document):  # its name is free at submission, not yet
                document["metadata"]["name"] += "-again"
        self._create(documents, dry_run="All")

    def submit(self, spec: JobSpec) -> str:
        """Create the JobSets. The id of an array is its names, joined by commas.

        A finished JobSet of the same run makes room: its pods' output is in the run directory.
        """
        documents = self._manifests(spec)
        for document in documents:
            if self._finished_before(document):
                self._remove(document["metadata"]["name"])
        self._create(documents)
        job = ",".join(document["metadata"]["name"] for document in documents)
        self.adopt(job, tuple(task.run_dir for task in spec.tasks))
        return job

    def adopt(self, job: str, run_dirs: tuple[Path, ...], identity: JobIdentity = NOBODY) -> None:
        """Take up a job that an earlier process submitted. Its name is all that tells it from others."""
        self.run_dirs[job] = run_dirs

    def identity(self, job: str) -> JobIdentity:
        """Return nothing beside the id: a JobSet's name is that of its run."""
        return NOBODY

    def batch_lines(self, job: str) -> Iterator[str] | None:
        """Return None: no script runs around the ranks."""
        return None

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        """Ask once for all JobSets of the namespace."""
        custom, _ = self.clients()
        with api_errors("list the JobSets"):
            answer = custom.list_namespaced_custom_object(*API[:2], self.namespace, API[2])
        found = {item["metadata"]["name"]: set_status(item) for item in answer["items"]}
        wanted = {name for job in ids for name in job.split(",")}
        known = {name: self.explained(name, status) for name, status in found.items() if name in wanted}
        return {job: _joined([known.get(name) or self._gone(job) for name in job.split(",")]) for job in ids}

    def _gone(self, job: str) -> JobStatus:
        """Say how a job ended whose JobSet was removed, by its time to live or by hand."""
        ended = [by_record(run_dir) or failed_by_record(run_dir) for run_dir in self.run_dirs.get(job, ())]
        if len(ended) == 1 and ended[0] is not None:
            return ended[0]
        return JobStatus(JobState.CANCELLED, reason="there is no such JobSet any more")

    def explained(self, name: str, status: JobStatus) -> JobStatus:
        """Add what is only asked about the few jobs that failed or do not start: their Jobs, pods and logs."""
        if status.state is JobState.PENDING:
            why = waiting(self._pods(name))
            return JobStatus(status.state, reason=why or status.reason)
        if status.state is not JobState.FAILED:
            return status
        found = explained(status, self._objects(*JOBS, name), self._pods(name))
        run_dirs = self.run_dirs.get(name, ())
        known = attempts(run_dirs[0]) if run_dirs else []
        failure = first_failure(RunDir(run_dirs[0]).logs(known[-1])) if known else None
        if failure is None or found.state is not JobState.FAILED:
            return found
        return JobStatus(found.state, failure.exit_code, failure, str(failure))

    def _pods(self, name: str) -> list[dict[str, Any]]:
        return self._objects(*PODS, name)

    def _objects(self, group: str, version: str, kind: str, name: str) -> list[dict[str, Any]]:
        """Return the Jobs or pods of one JobSet as the API gives them."""
        custom, core = self.clients()
        words = {"label_selector": f"{SET_LABEL}={name}"}
        with api_errors(f"list the {kind} of {name}"):
            if not group:
                answer = core.list_namespaced_pod(self.namespace, **words, _preload_content=False)
                return list(json.loads(answer.data)["items"])
            return list(custom.list_namespaced_custom_object(group, version, self.namespace, kind, **words)["items"])

    def _finished_before(self, document: dict[str, Any]) -> bool:
        """Return whether a finished JobSet of this run has the name. Raises UserError where another one has it."""
        name, run_dir = document["metadata"]["name"], document["metadata"]["annotations"][RUN_DIR]
        item = self._get(name)
        if item is None:
            return False
        owner = (item["metadata"].get("annotations") or {}).get(RUN_DIR)
        if not set_status(item).state.final:
            raise UserError(f"JobSet {name} of {owner or 'another program'} runs: cancel it, or name the run otherwise")
        if owner != run_dir:
            raise UserError(
                f"a finished JobSet {name} of {owner or 'another program'} exists: name this run otherwise, or "
                f"remove it with `kubectl -n {self.namespace} delete jobset {name}`"
            )
        return True

    def _get(self, name: str) -> dict[str, Any] | None:
        """Return a JobSet, or None where there is none of the name. Raises UserError where it cannot be asked for."""
        custom, _ = self.clients()
        with api_errors(f"look for {name}"):
            try:
                found: dict[str, Any] = custom.get_namespaced_custom_object(*API[:2], self.namespace, API[2], name)
            except Exception as error:
                if getattr(error, "status", None) != 404:
                    raise
                return None
        return found

    def _remove(self, name: str) -> None:
        """Delete a finished JobSet and wait until its name is free."""
        self.cancel(name)
        for _ in range(REMOVAL_SECONDS):
            if self._get(name) is None:
                return
            self.pause(1.0)
        raise UserError(f"the finished JobSet {name} is still being removed after {REMOVAL_SECONDS} s: submit it again")

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield rank logs where the run directory is visible here, else what the agents print in their pods.

        Followed, what the pods print until the job has ended; of one that has ended and left no pod, the rank logs.
        """
        run_dirs, names = self.run_dirs.get(job, ()), job.split(",")
        if follow:
            status = FollowedStatus(job, lambda: self.status([job])[job])
            pods = PodFollower(lambda: self._all_pods(names), lambda pod: self._log(pod, follow=True), status)
            yield from pods.lines(rank)
            if status.last.state is not JobState.DONE:
                yield status.sentence()
            if pods.readers:
                return
        if len(run_dirs) == 1 and (run_dirs[0] / "logs").is_dir():
            yield from attempt_logs(newest_logs(run_dirs[0]), rank)
            return
        for pod in [pod["metadata"]["name"] for pod in self._all_pods(names)]:
            text = self._log(pod, follow=False).data.decode("utf-8", "replace")
            yield from (shown for line in text.splitlines() for shown in line_of(pod, line, rank))

    def _all_pods(self, names: Sequence[str]) -> list[dict[str, Any]]:
        return [pod for name in names for pod in self._pods(name)]

    def _log(self, pod: str, *, follow: bool) -> Any:
        """Return the response with a pod's log. Raises UserError."""
        _, core = self.clients()
        with api_errors(f"give the log of pod {pod}"):
            return core.read_namespaced_pod_log(
                pod, self.namespace, container=CONTAINER, follow=follow, _preload_content=False
            )

    def cancel(self, *jobs: str) -> None:
        """Delete the JobSets with their pods, which get SIGTERM and time to save. A refusal stops no other."""
        custom, _ = self.clients()
        problems = []
        for name in [name for job in jobs for name in job.split(",")]:
            try:
                with api_errors(f"delete {name}"):
                    custom.delete_namespaced_custom_object(
                        *API[:2], self.namespace, API[2], name, propagation_policy="Foreground"
                    )
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("; ".join(problems) + "; the others are ended" * (len(jobs) > len(problems)))

    def _create(self, documents: list[dict[str, Any]], **how: str) -> None:
        custom, _ = self.clients()
        for document in documents:
            with api_errors(f"create {document['metadata']['name']}"):
                custom.create_namespaced_custom_object(*API[:2], self.namespace, API[2], document, **how)

    def _manifests(self, spec: JobSpec) -> list[dict[str, Any]]:
        documents = manifests(spec, python=self.python, directory=self.directory, secrets=self.secrets)
        self.namespace = documents[0]["metadata"]["namespace"]
        return documents


def _joined(statuses: list[JobStatus]) -> JobStatus:
    return statuses[0] if len(statuses) == 1 else array_status(statuses)
