"""What a Kubernetes cluster asks of its jobs, checked as its API server would, but with the key and before anything."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from launch.cluster.job import JobSpec
from trainer.config.base import Section, parse_section
from trainer.contract.errors import UserError

# k8s.io/apimachinery: api/resource/quantity.go, util/validation/validation.go. Signs and zero make no sense here.
_QUANTITY = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?\Z")
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")


def check_quantity(value: object) -> str:
    """Return a quantity such as 8, 500m or 64Gi. Raises ValueError."""
    text = str(value).strip()
    if isinstance(value, bool) or not _QUANTITY.match(text) or not re.search(r"[1-9]", text.split("e")[0]):
        raise ValueError("expected a quantity of Kubernetes, such as 8, 500m or 64Gi (GB is not one: write G or Gi)")
    return text


def check_label(text: str) -> str:
    """Return the name of a namespace: an RFC 1123 label. Raises ValueError."""
    if len(text) > 63 or re.fullmatch(_LABEL, text) is None:
        raise ValueError("expected at most 63 lower-case letters, digits and -, beginning and ending with no -")
    return text


def check_subdomain(text: str) -> str:
    """Return the name of an object: an RFC 1123 subdomain. Raises ValueError."""
    if len(text) > 253 or not _SUBDOMAIN.match(text):
        raise ValueError("expected the name of an object: lower-case letters, digits, - and .")
    return text


def check_key(text: str) -> str:
    """Return the key of a label, an annotation or a resource: `name` or `prefix/name`. Raises ValueError."""
    prefix, slash, name = text.rpartition("/")
    wrong_prefix = slash and (len(prefix) > 253 or not _SUBDOMAIN.match(prefix))
    if wrong_prefix or len(name) > 63 or not _NAME.match(name):
        raise ValueError(
            f"{text!r} is no key: expected `name` or `prefix.example/name`, the name of at most 63 letters"
        )
    return text


def check_value(value: object) -> str:
    """Return the value of a label. Raises ValueError."""
    text = _text(value)
    if text and (len(text) > 63 or not _NAME.match(text)):
        raise ValueError(f"{text!r} is no label's value: expected at most 63 letters, digits, -, _ and .")
    return text


def _text(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("expected a whole path, beginning with /")
    return path


Quantity = Annotated[str, BeforeValidator(check_quantity)]
ObjectName = Annotated[str, AfterValidator(check_subdomain)]
Key = Annotated[str, AfterValidator(check_key)]
LabelValue = Annotated[str, BeforeValidator(check_value)]


class Toleration(Section):
    """A taint of nodes that pods put up with."""

    key: Key | None = Field(None, description="every taint without one")
    operator: Literal["Equal", "Exists"] | None = Field(None, description="default: Equal with a value, else Exists")
    value: LabelValue | None = Field(None, description="of the taint")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="default: each")
    seconds: int | None = Field(None, ge=0, description="how long, for NoExecute")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists takes no value")
        if self.operator == "Equal" and (self.key is None or self.value is None):
            raise ValueError("operator Equal needs a key and a value")
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("seconds have a meaning for effect NoExecute alone")
        return self

    def manifest(self) -> dict[str, Any]:
        """Return it as the API names it."""
        operator = self.operator or ("Exists" if self.value is None else "Equal")
        values = {"key": self.key, "operator": operator, "value": self.value, "effect": self.effect}
        return {key: value for key, value in {**values, "tolerationSeconds": self.seconds}.items() if value is not None}


class KubernetesOptions(Section):
    """What a cluster asks of its jobs."""

    namespace: Annotated[str, AfterValidator(check_label)] = Field("default", description="where JobSets are created")
    secret: ObjectName | None = Field(None, description="the Secret that holds the variables listed under `secrets`")
    volume_claim: ObjectName | None = Field(None, description="shared PersistentVolumeClaim for run directories")
    volume_path: Annotated[str, AfterValidator(_absolute)] = Field("/runs", description="where it is mounted")
    gpu_resource: Key = Field("nvidia.com/gpu", description="what a GPU is called there")
    gpus_per_node: int | None = Field(
        None, ge=0, description="default: one for each rank where the cluster names a `gpu`, else none"
    )
    cpus: Quantity | None = Field(None, description="cores that a pod asks for")
    memory: Quantity | None = Field(None, description="memory that a pod asks for")
    extra_resources: dict[Key, Quantity] = Field({}, description="such as {rdma/hca: 1}; requested and limited")
    shared_memory: Quantity = Field("16Gi", description="size of /dev/shm, which ranks talk through")
    service_account: ObjectName | None = Field(None, description="as which pods run")
    image_pull_secrets: tuple[ObjectName, ...] = Field((), description="Secrets of private registries")
    node_selector: dict[Key, LabelValue] = Field({}, description="labels that nodes must have")
    tolerations: tuple[Toleration, ...] = Field((), description="such as {key: nvidia.com/gpu, effect: NoSchedule}")
    labels: dict[Key, LabelValue] = Field({}, description="of the JobSet and its pods")
    annotations: dict[Key, Annotated[str, BeforeValidator(_text)]] = Field({}, description="of the JobSet and its pods")
    priority_class: ObjectName | None = Field(None, description="of the pods")
    queue: ObjectName | None = Field(None, description="Kueue's local queue")
    grace_seconds: int = Field(120, gt=0, description="between SIGTERM and SIGKILL: time to save")
    ttl_seconds: int | None = Field(None, ge=0, description="remove the JobSet so long after its end; default: keep it")


def kubernetes_options(spec: JobSpec) -> KubernetesOptions:
    """Read a spec's extras and refuse what Kubernetes cannot do. Raises UserError."""
    options = parse_section(KubernetesOptions, dict(spec.extras), "kubernetes")
    if spec.container is None:
        raise UserError(f"job {spec.name!r}: Kubernetes runs images; name one as `container` in the cluster file")
    if not spec.container.strip() or re.search(r"\s", spec.container):
        raise UserError(f"job {spec.name!r}: `container` {spec.container!r} is not the name of an image")
    if spec.after:
        raise UserError(f"job {spec.name!r}: Kubernetes has no dependencies between jobs; submit it when they are done")
    if spec.array_cap is not None and options.queue is None:
        raise UserError(
            f"job {spec.name!r}: Kubernetes has no cap on an array by itself; name a Kueue `queue` with a quota"
        )
    twice = {options.gpu_resource, "cpu", "memory"} & set(options.extra_resources)
    if twice:
        raise UserError(f"kubernetes.extra_resources: {', '.join(sorted(twice))} has an option of its own")
    return options


def warnings(spec: JobSpec) -> list[str]:
    """Return what looks forgotten: ranks that train on GPUs, of which their pod asks for fewer."""
    number = kubernetes_options(spec).gpus_per_node
    if spec.gpu is None or number is None or number >= spec.ranks_per_node:
        return []
    return [
        f"{spec.ranks_per_node} ranks of a pod train on {spec.gpu}, but it asks for {number} GPUs: "
        f"set `gpus_per_node: {spec.ranks_per_node}` under `options`, or leave it out"
    ]
