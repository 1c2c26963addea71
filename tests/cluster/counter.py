"""A run in miniature, without torch: counts to N, saves on SIGUSR1 or SIGTERM and leaves with 75, resumes exactly.

counter.py RUN_DIR N SECONDS_PER_STEP
"""

import os
import signal
import sys
import time
from pathlib import Path

run_dir, steps, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
rank = os.environ["RANK"]
stop: list[int] = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda n, _: stop.append(n))
saved = run_dir / f"step_{rank}"
step = int(saved.read_text()) if saved.exists() else 0
print(f"rank {rank} begins at {step} pid {os.getpid()}", flush=True)
while step < steps:
    time.sleep(pause)
    step += 1
    with (run_dir / f"done_{rank}").open("a") as done:
        done.write(f"{step}\n")
    if stop:
        saved.write_text(str(step))
        (run_dir / "latest").write_text(f"step_{step}")
        print(f"rank {rank} saved {step} on signal {stop[0]}", flush=True)
        sys.exit(75)
print(f"rank {rank} done", flush=True)
