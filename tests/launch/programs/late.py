"""A rank that is slow to listen for signals: late.py MARK. It saves and leaves with 75 once it has heard one."""

import signal
import sys
import time
from pathlib import Path

mark = Path(sys.argv[1])
mark.write_text("starting")
time.sleep(1.0)
heard: list[int] = []
signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
for _ in range(600):
    time.sleep(0.1)
    if heard:
        mark.write_text("saved")
        sys.exit(75)
