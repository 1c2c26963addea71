"""`escala preflight`: is this cluster fit to train on?"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.commands.options import json_option, runs_option
from trainer.contract.exit_codes import EXIT_DONE, EXIT_FAILED
from trainer.contract.plain_text import plain

if TYPE_CHECKING:
    from launch.cluster.config import ClusterConfig
    from launch.cluster.job import JobSpec, JobStatus
    from launch.cluster.preflight.checks import Check

QUEUE_SECONDS = 300.0  # for which the all-reduce may wait and run


@click.command()
@click.option("--cluster", metavar="NAME", help="A file of configs/cluster, by name, or any YAML file. Default: here.")
@click.option("--all-reduce/--no-all-reduce", default=True, help="Also run an all-reduce over all ranks.")
@runs_option
@json_option
def preflight(cluster: str | None, all_reduce: bool, runs: Path, as_json: bool) -> None:
    """Check every node: versions, GPUs, disk, shared filesystem, clocks, ports, W&B, and an all-reduce over all ranks.

    Each check is OK, WARN or FAIL with a fix. Leaves with 1 when one failed.

    \b
    Examples:
      escala preflight
      escala preflight --cluster slurm --runs /shared/runs
      escala preflight --cluster ssh --json | jq '.checks[] | select(.level != "OK")'
    """
    from launch.cluster.config import LOCAL, load_cluster
    from launch.cluster.preflight.checks import Level, evaluate
    from launch.cluster.preflight.nodes import ask

    where = LOCAL if cluster is None else load_cluster(cluster)
    scratch = runs.resolve() / f".preflight-{secrets.token_hex(4)}"
    spec = where.job("preflight", ("-m", "trainer.node.bandwidth", "--out", str(scratch / "bandwidth.json")), scratch)
    asked_at = time.time()
    reports, problems = ask(where, spec, scratch / "meet")
    checks = evaluate(
        reports,
        nodes=where.nodes,
        ranks_per_node=where.ranks_per_node,
        gpu=where.gpu is not None,
        asked_at=asked_at,
    )
    if all_reduce and spec.world_size > 1 and len(reports) == where.nodes:
        checks.append(_all_reduce(where, spec, scratch))
    failed = any(check.level is Level.FAIL for check in checks)
    if not failed:
        shutil.rmtree(scratch, ignore_errors=True)
    if as_json:
        click.echo(
            json.dumps({"checks": [asdict(c) for c in checks], "problems": problems, "nodes": reports}, indent=2)
        )
    else:
        _print(checks, problems)
    sys.exit(EXIT_FAILED if failed else EXIT_DONE)


def _all_reduce(where: ClusterConfig, spec: JobSpec, scratch: Path) -> Check:
    """Run the all-reduce as a job of the cluster, and judge it."""
    from launch.cluster.backends import is_driven
    from launch.cluster.preflight.checks import bandwidth
    from trainer.contract.errors import UserError

    try:
        status = _driven(where, spec) if is_driven(where.backend) else _queued(where, spec)
    except UserError as error:  # one more finding: the other checks are still to be shown
        return bandwidth(None, str(error), spec.world_size)
    out = scratch / "bandwidth.json"
    found = json.loads(out.read_text()) if out.exists() else None
    return bandwidth(found, f"the job is {status.state.value}: {status.reason} (logs in {scratch})", spec.world_size)


def _driven(where: ClusterConfig, spec: JobSpec) -> JobStatus:
    from launch.cluster.config import open_driver

    with open_driver(where) as driver:
        job = driver.submit(spec)
        for _ in driver.logs(job, follow=True):  # to its end
            pass
        return driver.status([job])[job]


def _queued(where: ClusterConfig, spec: JobSpec) -> JobStatus:
    from launch.cluster.config import open_scheduler

    scheduler = open_scheduler(where)
    job, deadline = scheduler.submit(spec), time.monotonic() + QUEUE_SECONDS
    while not (status := scheduler.status([job])[job]).state.final and time.monotonic() < deadline:
        time.sleep(0.5)
    return status


def _print(checks: list[Check], problems: list[str]) -> None:
    for problem in problems:
        click.secho(plain(problem), fg="yellow", err=True)
    colours = {"OK": "green", "WARN": "yellow", "FAIL": "red"}
    width = max(len(check.name) for check in checks)
    for check in checks:
        level = click.style(f"{check.level.value:<4}", fg=colours[check.level.value])
        click.echo(f"{level}  {check.name:<{width}}  {plain(check.detail)}")
        if check.fix:
            click.echo(f"      {'':<{width}}  fix: {plain(check.fix)}")
