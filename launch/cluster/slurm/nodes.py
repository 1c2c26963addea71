"""The nodes of a Slurm cluster: whether there are any, and what each says about itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from launch.cluster.backend import Answers
from launch.cluster.job import JobSpec
from launch.cluster.preflight.nodes import reports_in
from launch.cluster.process import call
from launch.cluster.slurm.environment import client_environment
from launch.cluster.slurm.queue import SlurmQueue
from launch.cluster.slurm.script import SlurmOptions, slurm_options
from trainer.config.base import parse_section
from trainer.contract.errors import UserError

if TYPE_CHECKING:
    from launch.cluster.config import ClusterConfig

WAIT_SECONDS = 300.0
PLACE = ("partition", "account", "qos", "constraint", "reservation", "nodelist", "exclude", "gpus_per_node", "gres")


def reach(cluster: ClusterConfig) -> str:
    """Return which nodes are in which state, in words. Raises UserError where there are none or Slurm is silent."""
    queue = SlurmQueue(call)
    partition = parse_section(SlurmOptions, dict(cluster.options), cluster.backend).partition
    only = [f"--partition={partition}"] if partition else []
    states = queue.ask("sinfo", "--noheader", *only, "--format=%D %T").split()
    nodes = [f"{count} {state}" for count, state in zip(states[::2], states[1::2], strict=True)]
    where = f"Slurm {queue.site}" + (f", partition {partition}" if partition else "")
    if not nodes:
        raise UserError(f"{where} has no nodes")
    return f"{where}: {', '.join(nodes)}"


def ask_nodes(cluster: ClusterConfig, spec: JobSpec, words: tuple[str, ...]) -> Answers:
    """Run Python once on each node, in one job of five minutes."""
    options = slurm_options(spec).model_dump(include=set(PLACE), exclude_none=True)
    place = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    shape = [f"--nodes={spec.nodes}", "--ntasks-per-node=1", "--time=5", f"--chdir={cluster.work_directory}"]
    command = ["srun", "--export=ALL", *place, *shape, "--job-name=escala-preflight", cluster.interpreter, *words]
    try:
        # Not as a step of a job that this shell may run in.
        return reports_in(call(command, timeout=WAIT_SECONDS, env=client_environment(os.environ))), []
    except UserError as error:
        return [], [str(error)]
