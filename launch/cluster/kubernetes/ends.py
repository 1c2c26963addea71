"""Why a JobSet ended: from its Jobs and pods, which know more than the set's own condition says."""

from __future__ import annotations

from typing import Any

from launch.cluster.job import JobState, JobStatus
from trainer.contract.exit_codes import EXIT_PREEMPTED

LABEL = "jobset.sigs.k8s.io/jobset-name"
TERMINAL = {"Completed": JobState.DONE, "Failed": JobState.FAILED}


def set_status(item: dict[str, Any]) -> JobStatus:
    """Return the status that a JobSet itself tells."""
    status = item.get("status") or {}
    terminal = TERMINAL.get(status.get("terminalState", ""))
    restarts = status.get("restarts", 0)
    if terminal is not None:
        reasons = [c.get("message", "") for c in status.get("conditions", []) if c.get("status") == "True"]
        return JobStatus(terminal, 0 if terminal is JobState.DONE else None, reason="; ".join(filter(None, reasons)))
    jobs = status.get("replicatedJobsStatus") or []
    active = any(job.get("active", 0) for job in jobs)
    reason = f"restarted {restarts} times" if restarts else ""
    return JobStatus(JobState.RUNNING if active else JobState.PENDING, reason=reason)


def explained(status: JobStatus, jobs: list[dict[str, Any]], pods: list[dict[str, Any]]) -> JobStatus:
    """Return a failed JobSet's status with what its Jobs and pods add. A time limit is no failure: the ranks saved."""
    limits = [c for job in jobs for c in _failed(job) if c.get("reason") == "DeadlineExceeded"]
    if limits:
        return JobStatus(
            JobState.PREEMPTED, EXIT_PREEMPTED, reason="the time limit was reached; ranks were told to save"
        )
    ended = sorted((e for pod in pods for e in _ends(pod)), key=lambda end: end[0])
    if ended:
        _, code, text = ended[0]
        return JobStatus(status.state, code, reason=text)
    said = [c["message"] for job in jobs for c in _failed(job) if c.get("message")]
    return JobStatus(status.state, status.exit_code, reason="; ".join(said) or status.reason)


def waiting(pods: list[dict[str, Any]]) -> str:
    """Return why pods do not start: no node fits, no such image, no such volume. Empty where nothing is known."""
    for pod in pods:
        status, name = pod.get("status") or {}, pod["metadata"]["name"]
        for condition in status.get("conditions") or []:
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                return f"{name} waits for a node: {condition.get('message', condition.get('reason', ''))}"
        for container in status.get("containerStatuses") or []:
            held = (container.get("state") or {}).get("waiting") or {}
            if held.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                return f"{name}: {held['reason']}: {held.get('message', '')}".rstrip(": ")
    return ""


def _failed(job: dict[str, Any]) -> list[dict[str, Any]]:
    conditions = (job.get("status") or {}).get("conditions") or []
    return [c for c in conditions if c.get("type") in ("Failed", "FailureTarget") and c.get("status") == "True"]


def _ends(pod: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Return time, code and sentence of each container of a pod that ended badly, or that lost its node."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    node = (pod.get("spec") or {}).get("nodeName") or "no node"
    found = []
    for container in status.get("containerStatuses") or []:
        end = (container.get("state") or {}).get("terminated") or {}
        if end.get("exitCode"):
            why = end.get("reason", "Error")
            shown = "" if why == "Error" else f" ({why})"
            said = f": {end['message'].strip().splitlines()[-1]}" if end.get("message", "").strip() else ""
            text = f"{name} on {node} ended with exit code {end['exitCode']}{shown}{said}"
            found.append((end.get("finishedAt") or "", int(end["exitCode"]), text))
    if not found and status.get("phase") == "Failed":
        text = f"{name} on {node}: {status.get('reason', 'failed')}: {status.get('message', '')}".rstrip(": ")
        found.append(("", 1, text))
    return found
