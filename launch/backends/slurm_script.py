"""The batch script of a Slurm job, rendered from `launch/templates/slurm.sh.j2`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import jinja2
from pydantic import Field

from launch.backends.quoting import check_spec, directive, is_plain_path, label, sh
from launch.job import JobSpec
from trainer.config.base import Section, parse_section
from trainer.errors import UserError

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


class SlurmOptions(Section):
    """What a cluster or a user asks of Slurm beyond the shape of the job. Names are sbatch's own."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    gpus_per_node: int | str | None = Field(None, description="such as 8 or h100:8")
    gres: str | None = Field(None, description="such as gpu:a100:4; instead of gpus_per_node")
    cpus_per_task: int | None = Field(None, gt=0, description="cores of one node's ranks together")
    mem: str | None = None
    exclusive: bool = False
    mail_user: str | None = None
    mail_type: str | None = None
    signal_seconds: int = Field(120, gt=0, description="ranks are told to save so long before the time limit")
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    setup: tuple[str, ...] = Field((), description="your own shell lines, run before the ranks: `module load cuda`")


def slurm_options(spec: JobSpec) -> SlurmOptions:
    """Read a spec's extras. Raises UserError that names the allowed ones for a misspelt one."""
    options = parse_section(SlurmOptions, dict(spec.extras), "slurm")
    if options.gres and options.gpus_per_node:
        raise UserError(f"slurm: give gres ({options.gres}) or gpus_per_node ({options.gpus_per_node}), not both")
    return options


def render_script(spec: JobSpec, *, python: str, directory: Path) -> str:
    """Return the batch script of a job. `python` and `directory` are those of the cluster's nodes."""
    check_spec(spec)
    options = slurm_options(spec)
    output = spec.run_dir / ("slurm-%A_%a.out" if spec.array else "slurm-%j.out")
    plain = is_plain_path(spec.run_dir)
    text: str = _template().render(
        directives=list(_directives(spec, options, output if plain else None)),
        spec=spec,
        options=options,
        python=python,
        directory=spec.directory or directory,
        redirect=None if plain else spec.run_dir,
        limit_seconds=None if spec.time_limit is None else 60 * spec.time_limit,
        srun_options=shlex.join(["--kill-on-bad-exit=0", *_container(spec, options)]),
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
    return environment.get_template("slurm.sh.j2")


def _directives(spec: JobSpec, options: SlurmOptions, output: Path | None) -> Iterator[str]:
    yield f"--job-name={label(spec.name)}"
    yield f"--nodes={spec.nodes}"
    yield "--ntasks-per-node=1"
    if spec.time_limit is not None:
        yield f"--time={spec.time_limit}"
        yield f"--signal=USR1@{options.signal_seconds}"  # without B: it goes to the steps, that is to the agents
    yield f"--output={output or '/dev/null'}"
    yield "--open-mode=append"
    yield "--requeue"
    if spec.array:
        cap = "" if spec.array_cap is None else f"%{spec.array_cap}"
        yield f"--array=0-{len(spec.array) - 1}{cap}"
    if spec.after:
        yield "--dependency=afterok:" + ":".join(directive("after", job) for job in spec.after)
        yield "--kill-on-invalid-dep=yes"
    named = options.model_dump(exclude={"exclusive", "signal_seconds", "container_runtime", "setup"}, exclude_none=True)
    for option, value in named.items():
        yield f"--{option.replace('_', '-')}={directive(f'slurm.{option}', value)}"
    if options.exclusive:
        yield "--exclusive"


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
