"""Exit codes of a rank, an agent and a launcher: the only table. `docs/run-directory.md` says what each leads to."""

from __future__ import annotations

import errno

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped on request after a save, start it again
EXIT_DIVERGED = 76
EXIT_FENCED = 77  # a newer attempt has replaced this one
EXIT_STANDSTILL = 78  # of an agent: as many attempts as may began at one checkpoint, and saved nothing newer
EXIT_PORT_TAKEN = errno.EADDRINUSE  # 98 on Linux, of an agent: another program holds the port, try the next
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells say it
EXIT_BROKEN_PIPE = 128 + 13  # of a launcher, as a shell reports SIGPIPE
# Whoever leaves with one of these did so on purpose: starting the job again would not mend it, or is the business of
# the requeue policy.
AGREED_EXITS = frozenset({EXIT_USER_ERROR, EXIT_PREEMPTED, EXIT_DIVERGED, EXIT_FENCED, EXIT_STANDSTILL})
