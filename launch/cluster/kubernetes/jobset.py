"""A job as a Kubernetes JobSet (jobset.x-k8s.io/v1alpha2): plain data, written as YAML.

One indexed Job with a pod for each node, a headless service by which pods find the first one, and these rules:
a disrupted pod or a saved one restarts the set without counting, and so does a time limit where the requeue policy
lets it go on; a user error or a diverged run ends it, and so does an agent that counted three starts from one
checkpoint; any other failure restarts it as often as the policy allows.
"""

from __future__ import annotations

from typing import Any

import yaml

from launch.cluster.job import JobSpec, Task
from launch.cluster.kubernetes.options import KubernetesOptions, kubernetes_options
from launch.cluster.quoting import check_spec, dns_label
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import AGREED_EXITS, EXIT_PREEMPTED

PORT = 29400
API = ("jobset.x-k8s.io", "v1alpha2", "jobsets")
LABEL = "jobset.sigs.k8s.io"
OURS = {"app.kubernetes.io/name": "escala"}
CONTAINER = "trainer"
RUN_DIR = "escala/run-dir"  # annotation: whose JobSet it is


def manifests(spec: JobSpec, *, python: str, directory: str, secrets: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return one JobSet for each task. Raises UserError."""
    check_spec(spec)
    options = kubernetes_options(spec)
    if secrets and options.secret is None:
        raise UserError(f"kubernetes: {', '.join(secrets)} must come from a Secret: name it as options.secret")
    names = [dns_label(task.name) for task in spec.tasks]
    if len(set(names)) < len(names):
        names = [f"{name[:34]}-{index}" for index, name in enumerate(names)]
    return [
        _job_set(spec, task, name, options, _pod(spec, task, name, options, python, directory, secrets))
        for task, name in zip(spec.tasks, names, strict=True)
    ]


def render_manifests(documents: list[dict[str, Any]]) -> str:
    """Return the documents as YAML."""
    return "---\n".join(yaml.safe_dump(document, sort_keys=False, width=110) for document in documents)


def _job_set(spec: JobSpec, task: Task, name: str, options: KubernetesOptions, pod: dict[str, Any]) -> dict[str, Any]:
    labels = {**options.labels, **OURS, "escala/job": name}
    if options.queue is not None:
        labels["kueue.x-k8s.io/queue-name"] = options.queue
    template: dict[str, Any] = {"spec": pod}
    if options.labels or options.annotations:
        template["metadata"] = {"labels": dict(options.labels), "annotations": dict(options.annotations)}
    body: dict[str, Any] = {
        "network": {"enableDNSHostnames": True, "subdomain": name},
        "failurePolicy": _failure_policy(spec),
        "replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": _job(spec, template)}}],
    }
    if options.ttl_seconds is not None:
        body["ttlSecondsAfterFinished"] = options.ttl_seconds
    annotations = {**options.annotations, RUN_DIR: str(task.run_dir)}
    metadata = {"name": name, "namespace": options.namespace, "labels": labels, "annotations": annotations}
    return {"apiVersion": f"{API[0]}/{API[1]}", "kind": "JobSet", "metadata": metadata, "spec": body}


def _failure_policy(spec: JobSpec) -> dict[str, object]:
    saved = f"exit code {EXIT_PREEMPTED}"
    at_limit = "RestartJobSetAndIgnoreMaxRestarts" if spec.requeue.on_timeout else "FailJobSet"
    return {
        "maxRestarts": spec.requeue.on_failure,
        "rules": [
            {
                "name": "preempted",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
                "onJobFailureMessagePatterns": ["DisruptionTarget", saved],
            },
            {"name": "agreed", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
            {"name": "timelimit", "action": at_limit, "onJobFailureReasons": ["DeadlineExceeded"]},
        ],
    }


def _job(spec: JobSpec, template: dict[str, Any]) -> dict[str, Any]:
    agreed = sorted(AGREED_EXITS)
    job: dict[str, Any] = {
        "parallelism": spec.nodes,
        "completions": spec.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # a pod never restarts alone: the set does
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": agreed}},
            ]
        },
        "template": template,
    }
    if spec.time_limit is not None:
        job["activeDeadlineSeconds"] = 60 * spec.time_limit
    return job


def _pod(
    spec: JobSpec,
    task: Task,
    name: str,
    options: KubernetesOptions,
    python: str,
    directory: str,
    secrets: tuple[str, ...],
) -> dict[str, Any]:
    volumes, mounts = _volumes(spec, options)
    container = {
        "name": CONTAINER,
        "image": spec.container,
        "workingDir": str(spec.directory or directory),
        "command": [literal(word) for word in (python, "-m", "trainer.node.agent")],
        "args": _agent_arguments(spec, task, name),
        "env": _environment(spec, options, secrets),
        "ports": [{"name": "rendezvous", "containerPort": PORT, "protocol": "TCP"}],
        "resources": _resources(spec, options),
        "volumeMounts": mounts,
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace_seconds,
        "containers": [container],
        "volumes": volumes,
    }
    if options.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in options.image_pull_secrets]
    if options.tolerations:
        pod["tolerations"] = [toleration.manifest() for toleration in options.tolerations]
    if options.service_account is not None:
        pod["serviceAccountName"] = options.service_account
    if options.node_selector:
        pod["nodeSelector"] = dict(options.node_selector)
    if options.priority_class is not None:
        pod["priorityClassName"] = options.priority_class
    return pod


def _agent_arguments(spec: JobSpec, task: Task, name: str) -> list[str]:
    """The agent's words. Only `$(SET)` and `$(RESTART)`, which we set, are expanded by the kubelet."""
    fixed = ["--run-dir", str(task.run_dir), "--nodes", str(spec.nodes), "--ranks", str(spec.ranks_per_node)]
    met = ["--rendezvous", f"{name}-node-0-0.{name}:{PORT}", "--grace", "90"]
    words = [literal(word) for word in [*fixed, *met]]
    claim = ["--job", "$(SET)", "--repeat", "$(RESTART)", "--id", f"{name}.$(SET).$(RESTART)"]
    return [*words, *claim, "--echo", "--", *(literal(word) for word in task.command)]


def literal(text: str) -> str:
    """Return the text so that the kubelet, which expands `$(NAME)` and reads `$$` as `$`, gives it back unchanged."""
    return text.replace("$", "$$")


def _environment(spec: JobSpec, options: KubernetesOptions, secrets: tuple[str, ...]) -> list[dict[str, Any]]:
    def label(name: str) -> dict[str, object]:
        return {"fieldRef": {"fieldPath": f"metadata.labels['{LABEL}/{name}']"}}

    return [
        {"name": "SET", "valueFrom": label("jobset-uid")},
        {"name": "RESTART", "valueFrom": label("restart-attempt")},
        *({"name": key, "value": literal(value)} for key, value in sorted(spec.environment.items())),
        *({"name": key, "valueFrom": {"secretKeyRef": {"name": options.secret, "key": key}}} for key in secrets),
    ]


def _resources(spec: JobSpec, options: KubernetesOptions) -> dict[str, object]:
    default = 0 if spec.gpu is None else spec.ranks_per_node
    gpus = default if options.gpus_per_node is None else options.gpus_per_node
    limits: dict[str, Any] = ({options.gpu_resource: gpus} if gpus else {}) | dict(options.extra_resources)
    requests = {name: value for name, value in (("cpu", options.cpus), ("memory", options.memory)) if value}
    return {key: value for key, value in (("limits", limits), ("requests", requests)) if value}


def _volumes(spec: JobSpec, options: KubernetesOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": options.shared_memory}}
    ]
    mounts: list[dict[str, Any]] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]  # noqa: S108 - in the container
    if options.volume_claim is not None:
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": options.volume_claim}})
        mounts.append({"name": "runs", "mountPath": options.volume_path})
    for index, mount in enumerate(spec.mounts):
        volumes.append({"name": f"mount-{index}", "hostPath": {"path": str(mount.source)}})
        mounts.append({"name": f"mount-{index}", "mountPath": str(mount.target), "readOnly": mount.read_only})
    return volumes, mounts
