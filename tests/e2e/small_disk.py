"""One rank that cannot write a file of more than 64 KiB: to a program, a disk that is full."""

from __future__ import annotations

import resource
import sys

from trainer.train import main

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    sys.exit(main())
