"""Rendered scripts and manifests: golden files, two hundred hostile inputs, and no secret anywhere."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.cluster.accelerate.backend import AccelerateBackend
from launch.cluster.job import JobSpec, Mount, Requeue, Task
from launch.cluster.kubernetes.backend import KubernetesBackend
from launch.cluster.kubernetes.jobset import literal
from launch.cluster.local.backend import LocalBackend
from launch.cluster.quoting import dns_label, label
from launch.cluster.slurm.script import render_script
from launch.cluster.ssh.backend import SshBackend
from launch.cluster.ssh.connection import remote_command
from tests.launch.hostile import CANARY, PAYLOADS, PLACES
from trainer.contract.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
TRAIN = ("-m", "trainer.train", "--run-dir", "/shared/runs/tiny")
CASES = list(product(PLACES, PAYLOADS))
K8S = {"container": "escala:1", "extras": {"namespace": "training"}}


def slurm(spec: JobSpec) -> str:
    return render_script(spec, python="/opt/escala/bin/python", directory=Path("/shared/escala"))


def kubernetes(spec: JobSpec, secrets: tuple[str, ...] = ()) -> str:
    return KubernetesBackend(python="python3", directory="/workspace", secrets=secrets).render(spec)


def ssh(spec: JobSpec) -> str:
    return SshBackend(
        python="/opt/escala/bin/python", directory=Path("/shared/escala"), secrets=("WANDB_API_KEY",)
    ).render(spec)


GOLDEN_CASES = {
    "slurm_two_nodes.sh": lambda: slurm(
        JobSpec(
            "tiny",
            TRAIN,
            Path("/shared/runs/tiny"),
            nodes=2,
            ranks_per_node=8,
            time_limit=720,
            environment={"NCCL_DEBUG": "WARN"},
            requeue=Requeue(on_timeout=3, on_failure=1),
            after=("17",),
            extras={
                "partition": "train",
                "account": "lab",
                "qos": "high",
                "gpus_per_node": "h100:8",
                "exclusive": True,
            },
        )
    ),
    "slurm_array_in_a_container.sh": lambda: slurm(
        JobSpec(
            "sweep",
            (),
            Path("/shared/runs/sweep"),
            array=tuple(Task(n, ("-m", "trainer.train", "--run-dir", f"/r/{n}"), Path(f"/r/{n}")) for n in ("a", "b")),
            array_cap=4,
            container="/images/escala.sqsh",
            mounts=(Mount(Path("/shared"), Path("/shared")), Mount(Path("/data"), Path("/data"), True)),
            extras={"gres": "gpu:a100:1", "setup": ["module load cuda"]},
        )
    ),
    "slurm_apptainer.sh": lambda: slurm(
        JobSpec(
            "tiny",
            TRAIN,
            Path("/shared/runs/tiny"),
            container="/images/escala.sif",
            mounts=(Mount(Path("/shared"), Path("/shared")),),
            extras={"container_runtime": "apptainer"},
        )
    ),
    "kubernetes.yaml": lambda: kubernetes(
        JobSpec(
            "tiny",
            TRAIN,
            Path("/shared/runs/tiny"),
            nodes=2,
            ranks_per_node=8,
            environment={"NCCL_DEBUG": "WARN"},
            requeue=Requeue(on_failure=3),
            container="registry.example.com/escala:0.1.0",
            gpu="H100-SXM",
            time_limit=60,
            mounts=(Mount(Path("/scratch"), Path("/scratch"), True),),
            extras={"namespace": "training", "secret": "keys", "volume_claim": "runs", "queue": "gpu"},
        ),
        secrets=("WANDB_API_KEY",),
    ),
    "ssh.txt": lambda: ssh(
        JobSpec(
            "tiny",
            TRAIN,
            Path("/shared/runs/tiny"),
            nodes=2,
            ranks_per_node=8,
            extras={"hosts": ["me@n1:2222", "n2"], "key": "/keys/id"},
        )
    ),
}


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_golden(name: str) -> None:
    """Set ESCALA_WRITE_GOLDEN=1 to write the files anew, then read the difference."""
    text, path = GOLDEN_CASES[name](), GOLDEN / name
    if os.environ.get("ESCALA_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", [name for name in GOLDEN_CASES if name.endswith(".sh")])
def test_golden_scripts_are_valid_bash(name: str) -> None:
    subprocess.run(["bash", "-n"], input=(GOLDEN / name).read_text(), text=True, check=True)


def hostile(place: str, payload: str, root: Path, **more: Any) -> JobSpec:
    """A job with one hostile value, whose run directory lies below `root`."""
    directory = root / "runs" / (payload.replace("/", "_")[:80] if place == "run_dir" else "plain")
    return JobSpec(
        name=payload if place == "name" else "plain",
        command=("-m", "program", payload if place == "command" else "argument"),
        run_dir=directory,
        environment={"VALUE": payload if place == "environment" else "plain"},
        directory=root,
        **more,
    )


STUBS = {
    "scontrol": 'case "$*" in *hostnames*) echo n1;; *node*) echo "x NodeAddr=127.0.0.1 y";; esac',
    "srun": 'env -0 >"$STUB_OUT/env"; printf "%s\\0" "$@" >"$STUB_OUT/argv"',
    "squeue": "",
}


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("stubs")
    for name, body in STUBS.items():
        (directory / name).write_text(f"#!/bin/bash\n{body}\n")
        (directory / name).chmod(0o755)
    return directory


@pytest.mark.parametrize("batch", range(10))
def test_slurm_executes_no_input(batch: int, tmp_path: Path, stubs: Path) -> None:
    for number, (place, payload) in list(enumerate(CASES))[batch::10]:
        root = tmp_path / str(number)
        root.mkdir()
        spec = hostile(place, payload, root)
        script = render_script(spec, python="python3", directory=root)
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)
        environment = {"PATH": f"{stubs}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
        environment |= {"STUB_OUT": str(root), "HOME": str(root)}
        done = subprocess.run(
            ["bash"], input=script.encode(), cwd=root, env=environment, capture_output=True, timeout=20
        )
        assert done.returncode == 0, (place, payload, done.stderr)
        words = (root / "argv").read_bytes().decode().split("\0")[:-1]
        assert tuple(words[words.index("--") + 1 :]) == spec.command
        assert words[words.index("--run-dir") + 1] == str(spec.run_dir)
        seen = dict(item.split("=", 1) for item in (root / "env").read_bytes().decode().split("\0") if "=" in item)
        assert seen["VALUE"] == spec.environment["VALUE"]
        assert not list(root.rglob(CANARY)), f"{payload!r} as {place} was executed"
        header = [line for line in script.splitlines() if line.startswith("#SBATCH")]
        assert sum(line.startswith("#SBATCH --job-name=") for line in header) == 1
        assert all(payload not in line for line in header if place != "name" and len(payload) > 4)


@pytest.mark.parametrize("batch", range(4))
def test_kubernetes_gives_back_every_input(batch: int, tmp_path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    models = pytest.importorskip("kubeflow_trainer_api.models")
    for place, payload in CASES[batch::4]:
        spec = hostile(place, payload, tmp_path, **K8S)
        (document,) = yaml.safe_load_all(kubernetes(spec))
        job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
        container = job["template"]["spec"]["containers"][0]
        arguments = [kubelet(word) for word in container["args"]]
        assert tuple(arguments[arguments.index("--") + 1 :]) == spec.command
        assert {e["name"]: kubelet(e.get("value", "")) for e in container["env"]}["VALUE"] == spec.environment["VALUE"]
        validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job}, "1.37", strict=True)
        assert models.JobsetV1alpha2JobSet.from_dict(document).to_dict() == document, "a key that JobSet does not know"


def kubelet(text: str) -> str:
    """Expand as the kubelet does (k8s.io/kubernetes/third_party/forked/golang/expansion), knowing no variable."""
    out, index = "", 0
    while index < len(text):
        if text[index : index + 2] == "$$":
            out, index = out + "$", index + 2
        else:
            out, index = out + text[index], index + 1
    return out


@given(st.text(alphabet="$()a {}", max_size=12))
def test_the_kubelet_gives_back_what_was_meant(text: str) -> None:
    assert kubelet(literal(text)) == text


@pytest.mark.parametrize("payload", [p for p in PAYLOADS if "/" not in p and len(p) < 250])
def test_ssh_puts_only_directory_and_python_on_the_command_line(payload: str, tmp_path: Path) -> None:
    directory = tmp_path / payload
    directory.mkdir()
    python = directory / f"py {payload}"
    python.write_text('#!/bin/sh\npwd >"$OUT"; printf "%s\\0" "$@" >>"$OUT"\n')
    python.chmod(0o755)
    out = tmp_path / "out"
    command = remote_command(str(python), directory)
    subprocess.run(["sh", "-c", command], env={**os.environ, "OUT": str(out)}, cwd=tmp_path, check=True)
    assert out.read_bytes().decode() == f"{directory}\n-u\0-m\0trainer.node.ssh_end\0"
    assert not (tmp_path / CANARY).exists() and not (directory / CANARY).exists()


@pytest.mark.parametrize("place", PLACES)
def test_ssh_sends_everything_else_as_data(place: str, tmp_path: Path) -> None:
    for payload in PAYLOADS:
        spec = hostile(place, payload, tmp_path, extras={"hosts": ["n1"]})
        command, order, *_ = ssh(spec).splitlines()
        assert "trainer.node.ssh_end" in command and (len(payload) < 6 or payload not in command)
        sent = json.loads(order.partition("<<< ")[2])
        assert tuple(sent["start"][sent["start"].index("--") + 1 :]) == spec.command
        assert sent["environment"] == dict(spec.environment)


@pytest.mark.parametrize("batch", range(4))
def test_local_rendering_runs_as_rendered(batch: int, tmp_path: Path) -> None:
    shim = tmp_path / "bin" / "python"
    shim.parent.mkdir()
    shim.write_text('#!/bin/sh\nprintf "%s\\0" "$VALUE" "$@" >"$OUT"\n')
    shim.chmod(0o755)
    for place, payload in CASES[batch::4]:
        spec = hostile(place, payload, tmp_path)
        text = LocalBackend(1, python=str(shim)).render(spec)
        subprocess.run(
            ["sh"], input=text.encode(), cwd=tmp_path, env={**os.environ, "OUT": str(tmp_path / "out")}, check=True
        )
        value, *words = (tmp_path / "out").read_bytes().decode().split("\0")[:-1]
        assert (value, tuple(words)) == (spec.environment["VALUE"], spec.command)
        assert not list(tmp_path.rglob(CANARY))


RENDERERS = [slurm, lambda s: kubernetes(s), ssh, LocalBackend(1).render, AccelerateBackend(python="python").render]


@pytest.mark.parametrize("render", RENDERERS)
@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password"])
def test_no_secret_is_ever_rendered(render: Any, name: str) -> None:
    spec = JobSpec("x", TRAIN, Path("/r/x"), environment={name: "hunter2"}, container="i")
    with pytest.raises(UserError, match=r"looks like a secret.*`secrets`"):
        render(spec)


@pytest.mark.parametrize("render", RENDERERS)
@pytest.mark.parametrize("name", ["A B", "A=B", "1A", "A\nB", "", "A$(x)"])
def test_names_of_variables_are_checked(render: Any, name: str) -> None:
    with pytest.raises(UserError, match="not the name of an environment variable"):
        render(JobSpec("x", TRAIN, Path("/r/x"), environment={name: "v"}, container="i"))


@pytest.mark.parametrize("render", RENDERERS)
def test_a_nul_character_is_refused(render: Any) -> None:
    with pytest.raises(UserError, match="NUL"):
        render(JobSpec("x", ("a\0b",), Path("/r/x"), container="i"))


@pytest.mark.parametrize("option", ["partition", "account", "constraint", "mem", "gres"])
@pytest.mark.parametrize("value", ["a\n#SBATCH --uid=0", "a b", "$(x)", "a'b", ""])
def test_slurm_options_are_plain_words(option: str, value: str) -> None:
    with pytest.raises(UserError, match=f"slurm.{option}"):
        slurm(JobSpec("x", TRAIN, Path("/r/x"), extras={option: value}))


def test_a_misspelt_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown key 'partiton' \(did you mean 'partition'\?\)"):
        slurm(JobSpec("x", TRAIN, Path("/r/x"), extras={"partiton": "a"}))
    with pytest.raises(UserError, match=r"unknown key 'namspace' \(did you mean 'namespace'\?\)"):
        kubernetes(JobSpec("x", TRAIN, Path("/r/x"), container="i", extras={"namspace": "a"}))


def test_gres_and_gpus_per_node_exclude_each_other() -> None:
    with pytest.raises(UserError, match="not both"):
        slurm(JobSpec("x", TRAIN, Path("/r/x"), extras={"gres": "gpu:1", "gpus_per_node": 1}))


@settings(max_examples=100)
@given(st.text(max_size=80))
def test_labels_are_what_schedulers_accept(text: str) -> None:
    import re

    assert re.fullmatch(r"[A-Za-z0-9._-]{1,60}", label(text))
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", dns_label(text)) and len(dns_label(text)) <= 44


def test_accelerate_reads_its_configuration(tmp_path: Path) -> None:
    """Accelerate itself reads it: two machines of four ranks, and nothing that the run's own settings decide."""
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    spec = JobSpec("x", TRAIN, tmp_path / "a'b", nodes=2, ranks_per_node=4, extras={"main_process_ip": "10.0.0.1"})
    text = AccelerateBackend(python="python").render(spec)
    file = tmp_path / "accelerate.yaml"
    file.write_text(text)
    found = config_args.load_config_from_file(str(file))
    assert (found.num_machines, found.num_processes, found.main_process_ip) == (2, 8, "10.0.0.1")
    assert (found.distributed_type.value, found.mixed_precision, found.dynamo_config) == ("MULTI_GPU", "no", {})
    assert "--machine_rank N -m trainer.train --run-dir /shared/runs/tiny\n" in text
    assert f"#   {AccelerateBackend(python='python').start(spec)}\n" in text
    alone = yaml.safe_load(AccelerateBackend(python="python").render(JobSpec("x", TRAIN, tmp_path)))
    assert (alone["distributed_type"], alone["num_processes"]) == ("NO", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": 2}, "2 nodes, which must find the first: set options.main_process_ip"),
        ({"environment": {"NCCL_DEBUG": "WARN"}}, r"environment \(NCCL_DEBUG\) cannot be written"),
        ({"time_limit": 60, "requeue": Requeue(on_failure=1)}, "time_limit, requeue cannot be written"),
        ({"extras": {"main_ip": "h"}}, "unknown key 'main_ip'"),
    ],
)
def test_what_accelerate_cannot_hold_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AccelerateBackend(python="python").render(JobSpec("x", TRAIN, Path("/r/x"), **changes))
