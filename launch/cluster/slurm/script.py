"""The batch script of a Slurm job, rendered from `batch_script.sh.j2` beside this file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import jinja2
from pydantic import Field

from launch.cluster.job import JobSpec
from launch.cluster.quoting import check_spec, directive, is_plain_path, label, quoted_directive, sh
from launch.cluster.slurm.environment import export_option
from trainer.config.base import Section, parse_section
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_PORT_TAKEN, EXIT_PREEMPTED

SBATCH_OPTIONS = (
    *("partition", "account", "qos", "constraint", "reservation", "nodelist", "exclude", "gpus_per_node", "gres"),
    *("cpus_per_task", "mem", "mail_user", "mail_type"),
)
TEMPLATES = Path(__file__).resolve().parent


class SlurmOptions(Section):
    """What a cluster or a user asks of Slurm beyond the shape of the job. Names are sbatch's own."""

    partition: str | None = Field(None, description="where jobs queue; default: that of the site")
    account: str | None = Field(None, description="who pays")
    qos: str | None = Field(None, description="quality of service")
    constraint: str | None = Field(None, description="features that nodes must have")
    reservation: str | None = Field(None, description="nodes that were reserved under this name")
    nodelist: str | None = Field(None, description="nodes that the job must have, such as n[01-04]")
    exclude: str | None = Field(None, description="nodes that it must not have")
    gpus_per_node: int | str | None = Field(None, description="such as 8 or h100:8")
    gres: str | None = Field(None, description="such as gpu:a100:4; instead of gpus_per_node")
    cpus_per_task: int | None = Field(None, gt=0, description="cores of one node's ranks together")
    mem: int | str | None = Field(None, description="such as 64G; 0 is all of a node")
    exclusive: bool = Field(False, description="share nodes with no other job")
    mail_user: str | None = Field(None, description="address that mails go to")
    mail_type: str | None = Field(None, description="what to mail about, such as FAIL,TIME_LIMIT")
    signal_seconds: int = Field(120, gt=0, description="ranks are told to save so long before the time limit")
    container_runtime: Literal["pyxis", "apptainer"] = Field("pyxis", description="what starts `container`")
    setup: tuple[str, ...] = Field((), description="your own shell lines, run before the ranks: `module load cuda`")
    setup_may_fail: bool = Field(False, description="go on when one of them fails")
    inherit_environment: bool = Field(
        True, description="hand the submitting shell's environment on; false: a login environment and `secrets` alone"
    )
    join_seconds: int = Field(600, gt=0, description="how long nodes wait for one another; who is missing is named")
    extra: dict[str, str | int | bool] = Field(
        {}, description="any other option of sbatch, by its long name: {licenses: ansys, comment: mine}"
    )


# Options of sbatch that follow from the job, or that would change what `submit` reads.
_OURS = frozenset(
    [
        *("array", "nodes", "ntasks", "ntasks-per-node", "time", "dependency", "kill-on-invalid-dep", "job-name"),
        *("output", "error", "input", "open-mode", "chdir", "requeue", "no-requeue", "signal", "export", "export-file"),
        *("get-user-env", "parsable", "test-only", "wait", "wrap", "help", "usage", "quiet", "verbose", "version"),
        *("clusters", "uid", "gid"),
    ]
)
_OURS_BY = {
    "time": "`time_limit`",
    "nodes": "`nodes`",
    "dependency": "`escala submit --after`",
    "array": "a sweep",
    "clusters": "SLURM_CLUSTERS in your shell",
}
_KEY = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")
# One task of a node would be bound to one core, and all its ranks with it. A node whose agent neither comes nor ends
# must not hold the job when the others have left.
SRUN_OPTIONS = ("--kill-on-bad-exit=0", "--wait=300", "--export=ALL", "--cpu-bind=none")
_COUNT_GPUS = ("gpus", "gpus-per-task", "gpus-per-socket", "tres-per-task")  # of sbatch; others only bind or tune them
_GRES = re.compile(r"\bgpu(?::[^:,]*[^:,\d][^:,]*)?(?::(\d+))?\b")  # gpu[:type][:count]


def slurm_options(spec: JobSpec) -> SlurmOptions:
    """Read a spec's extras. Raises UserError that names the allowed ones for a misspelt one."""
    options = parse_section(SlurmOptions, dict(spec.extras), "slurm")
    if options.gres and options.gpus_per_node:
        raise UserError(f"slurm: give gres ({options.gres}) or gpus_per_node ({options.gpus_per_node}), not both")
    for key in options.extra:
        _check_extra(key)
    if spec.time_limit is not None:
        check_signal(options.signal_seconds, 60 * spec.time_limit, f"time_limit: {spec.time_limit} minutes")
    return options


def check_signal(signal_seconds: int, limit_seconds: int, which: str) -> None:
    """Refuse a job that is told to save when it begins: it would be requeued for ever."""
    if signal_seconds >= limit_seconds:
        raise UserError(
            f"slurm: signal_seconds ({signal_seconds}) is not less than the time limit of {limit_seconds} s "
            f"({which}): the job would be told to save before it trains. Ask for more time or lower signal_seconds"
        )


def _check_extra(key: str) -> None:
    if not _KEY.match(key):
        raise UserError(f"slurm.extra: {key!r} is not a long option of sbatch, such as `licenses` or `mem-per-gpu`")
    if key in _OURS:
        raise UserError(f"slurm.extra: Escala sets --{key} itself{f': use {_OURS_BY[key]}' if key in _OURS_BY else ''}")
    if (name := key.replace("-", "_")) in SlurmOptions.model_fields:
        raise UserError(f"slurm.extra: give {name!r} under `options` itself")


def warnings(spec: JobSpec) -> list[str]:
    """Return what looks forgotten: ranks that want GPUs which the job does not ask Slurm for."""
    if spec.gpu is None:
        return []
    number = _gpus_of_a_node(slurm_options(spec))
    if number == 0:
        return [
            f"{spec.ranks_per_node} ranks a node train on {spec.gpu}, but the job asks Slurm for no GPUs: "
            f"set `gpus_per_node: {spec.ranks_per_node}` under `options` unless nodes are given whole with theirs"
        ]
    if number is not None and number < spec.ranks_per_node:
        return [
            f"{spec.ranks_per_node} ranks share {number} GPUs of a node: set `gpus_per_node: {spec.ranks_per_node}`"
        ]
    return []


def _gpus_of_a_node(options: SlurmOptions) -> int | None:
    """Return how many GPUs of a node the options ask for, 0 for none, or None where they count them otherwise."""
    if options.gpus_per_node is not None:
        number = str(options.gpus_per_node).rpartition(":")[2]
        return int(number) if number.isdigit() else None
    if counts := [int(found[1] or 1) for found in _GRES.finditer(options.gres or "")]:
        return sum(counts)
    elsewhere = any(key in options.extra for key in _COUNT_GPUS) or re.search(r"shard|mps", options.gres or "")
    return None if elsewhere else 0


def render_script(
    spec: JobSpec, *, python: str, directory: Path, secrets: tuple[str, ...] = (), behind: str | None = None
) -> str:
    """Return the batch script of a job. `python` and `directory` are those of the cluster's nodes.

    It starts when the jobs `spec.after` are done, and when the job `behind` has ended, however that was.
    """
    check_spec(spec)
    options = slurm_options(spec)
    output = spec.run_dir / ("slurm-%A_%a.out" if spec.array else "slurm-%j.out")
    plain = is_plain_path(spec.run_dir)
    text: str = _template().render(
        exit_port_taken=EXIT_PORT_TAKEN,
        exit_preempted=EXIT_PREEMPTED,
        directives=list(_directives(spec, options, output if plain else None, behind)),
        spec=spec,
        options=options,
        python=python,
        directory=spec.directory or directory,
        redirect=None if plain else spec.run_dir,
        submitted_by=shlex.join(["sbatch", "--parsable", export_option(options.inherit_environment, secrets)]),
        setup_lines=[line for entry in options.setup for line in entry.split("\n")],
        srun_options=shlex.join([*SRUN_OPTIONS, *_container(spec, options)]),
        rank_python=shlex.join(_rank_python(spec, options, python)),
    )
    return text


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - it renders shell, and every value passes the filter `sh`
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"sh": sh, "words": shlex.join}
    return environment.get_template("batch_script.sh.j2")


def _directives(spec: JobSpec, options: SlurmOptions, output: Path | None, behind: str | None) -> Iterator[str]:
    yield f"--job-name={label(spec.name)}"
    yield f"--nodes={spec.nodes}"
    yield "--ntasks-per-node=1"
    if spec.time_limit is not None:
        yield f"--time={spec.time_limit}"
    # Also where the partition alone sets a limit. Without B: it goes to the steps, that is to the agents.
    yield f"--signal=USR1@{options.signal_seconds}"
    yield f"--output={output or '/dev/null'}"
    yield "--open-mode=append"
    yield "--requeue"
    if spec.array:
        cap = "" if spec.array_cap is None else f"%{spec.array_cap}"
        yield f"--array=0-{len(spec.array) - 1}{cap}"
    after = [":".join(["afterok", *(directive("after", job) for job in spec.after)])] if spec.after else []
    if behind is not None:
        after.append(f"afterany:{behind}")
    if after:
        yield f"--dependency={','.join(after)}"
        yield "--kill-on-invalid-dep=yes"
    for option in SBATCH_OPTIONS:
        if (value := getattr(options, option)) is not None:
            yield f"--{option.replace('_', '-')}={directive(f'slurm.{option}', value)}"
    if options.exclusive:
        yield "--exclusive"
    for key, value in options.extra.items():
        if value is not False:
            yield f"--{key}" if value is True else f"--{key}={quoted_directive(f'slurm.extra.{key}', value)}"


def _container(spec: JobSpec, options: SlurmOptions) -> list[str]:
    """Return the options of srun that start the ranks in a container through pyxis."""
    if spec.container is None or options.container_runtime != "pyxis":
        return []
    binds = [f"{m.source}:{m.target}" + (":ro" if m.read_only else "") for m in spec.mounts]
    mounts = [f"--container-mounts={','.join(binds)}"] if binds else []
    return [f"--container-image={spec.container}", *mounts]


def _rank_python(spec: JobSpec, options: SlurmOptions, python: str) -> list[str]:
    """Return the words that start Python on a node: through apptainer where that is the container runtime."""
    if spec.container is None or options.container_runtime != "apptainer":
        return [python]
    binds = [w for m in spec.mounts for w in ("--bind", f"{m.source}:{m.target}" + (":ro" if m.read_only else ""))]
    return ["apptainer", "exec", "--nv", *binds, spec.container, python]
