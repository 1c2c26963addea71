"""Submits one program as `escala submit` does, and stays until it ended: JSON of cluster, run_dir and command."""

import json
import sys
import time
from pathlib import Path

from launch.cluster import attached
from launch.cluster.backends import is_driven
from launch.cluster.config import load_cluster, open_driver, open_scheduler
from launch.commands.submit import _attend
from launch.run.submission import record_submission
from trainer.contract.errors import UserError

order = json.loads(sys.argv[1])
cluster, run_dir = load_cluster(order["cluster"]), Path(order["run_dir"])
spec = cluster.job(run_dir.name, tuple(order["command"]), run_dir)
try:
    run_dir.mkdir(parents=True, exist_ok=True)
    if is_driven(cluster.backend):
        (row,) = record_submission(spec, attached.job_id(), order["cluster"], cluster)
        _attend(open_driver(cluster), spec, row)
    else:
        scheduler = open_scheduler(cluster)
        job = scheduler.submit(spec)
        record_submission(spec, job, order["cluster"], cluster, scheduler.identity(job))
        while not scheduler.status([job])[job].state.final:
            time.sleep(0.5)
except UserError as error:
    print(f"error: {error}", flush=True)
