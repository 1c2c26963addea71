"""The slurm.conf that all Slurms of these tests share, and the files beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

CONF = """\
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.sock,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerNode=500
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
SlurmdTimeout=10
KillWait=10
CompleteWait=0
MinJobAge=600
FirstJobId={first}
TCPTimeout=2
MessageTimeout=10
BatchStartTimeout=5
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{own}
{nodes}
PartitionName=train Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def write_conf(root: Path, *, first: int, nodes: Sequence[str], own: Sequence[str]) -> None:
    """Write slurm.conf and munge's key below `root`, and make the daemons' directories.

    Jobs are counted from `first`; `own` are the lines by which this cluster differs from others.
    """
    for part in ("state", "spool"):
        (root / part).mkdir(parents=True)
    key = root / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    (root / "slurm.conf").write_text(CONF.format(root=root, first=first, own="\n".join(own), nodes="\n".join(nodes)))


def munge_options(root: Path) -> list[str]:
    """Return the options by which munged keeps its files below `root`."""
    files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munge.pid"}
    files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    return ["--foreground", *(f"--{key}={root / name}" for key, name in files.items())]
