"""Drives one job over SSH as `escala submit` does. Its argument is JSON: run_dir, command, options, directory."""

import json
import signal
import sys
from pathlib import Path

from launch.cluster.job import JobSpec
from launch.cluster.ssh.backend import SshBackend
from trainer.contract.errors import UserError

signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background would pass on that it is ignored
order = json.loads(sys.argv[1])
spec = JobSpec(
    "test",
    tuple(order["command"]),
    Path(order["run_dir"]),
    nodes=len(order["options"]["hosts"]),
    environment={"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"},
    extras=order["options"],
)
try:
    with SshBackend(python=sys.executable, directory=Path(order.get("directory") or Path.cwd())) as backend:
        backend.rehearse(spec)
        job = backend.submit(spec)
        try:
            for line in backend.logs(job, follow=True):
                print(line, flush=True)
        except KeyboardInterrupt:
            backend.cancel(job)
            for line in backend.logs(job, follow=True):
                print(line, flush=True)
        status = backend.status([job])[job]
    print(json.dumps({"state": status.state.value, "reason": status.reason}))
except UserError as error:
    print(json.dumps({"error": str(error)}))
