"""A real Slurm on this machine: munged, slurmctld and several slurmd, each a node with its own port. No systemd.

Needs root and Debian's slurmctld, slurmd, slurm-client and munge. Everything lives in one directory and ends with
`stop`, by the process ids that were started here.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster.slurm_conf import munge_options, write_conf
from trainer.node.rank import die_with

GPUS = ("/dev/null", "/dev/zero")  # any character devices pass for GPUs: nothing opens them
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")


def missing() -> str | None:
    """Return why no Slurm can be started here, or None."""
    if os.geteuid() != 0:
        return "a real Slurm needs root"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class Slurm:
    """One cluster of `nodes` nodes n1, n2, ..."""

    def __init__(self, root: Path, nodes: int) -> None:
        self.root = root
        self.names = [f"n{i}" for i in range(1, nodes + 1)]
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}
        self.ports = free_ports(nodes + 1)

    def start(self) -> None:
        """Start the daemons and wait until every node is idle."""
        self.root.chmod(0o755)
        host = socket.gethostname().split(".")[0]
        node = "NodeName={} NodeHostname={} NodeAddr=127.0.0.1 Port={} CPUs=16 CoresPerSocket=16 RealMemory=8000"
        node += f" Gres=gpu:h100:{len(GPUS)}"
        lines = [node.format(name, host, port) for name, port in zip(self.names, self.ports[1:], strict=True)]
        own = ["ClusterName=escala", f"SlurmctldHost={host}(127.0.0.1)", f"SlurmctldPort={self.ports[0]}"]
        own += ["TaskPlugin=task/none", "GresTypes=gpu"]
        # Rendezvous ports follow from job ids: two clusters on one machine must not count from the same one.
        write_conf(self.root, first=random.randrange(1, 5000) * 1000, nodes=lines, own=own)
        gpus = "".join(f"Name=gpu Type=h100 File={device}\n" for device in GPUS)
        (self.root / "gres.conf").write_text(gpus)
        self._daemon("munged", *munge_options(self.root))
        wait_until(lambda: (self.root / "munge.sock").exists(), 20, "munged")
        self._daemon("slurmctld", "-D")
        for name in self.names:
            self.start_node(name)
        wait_until(
            lambda: self.call("sinfo", "-hN", "-p", "train", "-o", "%T").split() == ["idle"] * len(self.names),
            60,
            "nodes",
        )

    def start_node(self, name: str) -> None:
        """Start the daemon of one node."""
        (self.root / "spool" / name).mkdir(exist_ok=True)
        self._daemon("slurmd", "-D", "-N", name, label=name)

    def crash_node(self, name: str) -> None:
        """End a node as a power cut would: its daemon, and every process of its jobs."""
        daemon = self.daemons.pop(name)
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        for pid in self._steps(name):
            kill_tree(pid)

    @contextlib.contextmanager
    def crashed(self, name: str) -> Iterator[None]:
        """Crash a node, and start it again at the end."""
        self.crash_node(name)
        try:
            yield
        finally:
            self.start_node(name)
            wait_until(lambda: "idle" in self.call("sinfo", "-hN", "-n", name, "-p", "train", "-o", "%T"), 60, name)

    def nodes_of(self, job: str) -> list[str]:
        """Return the nodes that a job has, or had."""
        return self.call("squeue", "-h", "-t", "all", "-j", job, "-o", "%N").strip().split(",")

    def call(self, *argv: str) -> str:
        """Run one of Slurm's programs."""
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=30, check=True).stdout

    def job_processes(self, job: str) -> list[int]:
        """Return the processes that carry the job in their environment."""
        wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_CONF={self.root / 'slurm.conf'}".encode()}
        return [pid for pid in all_processes() if wanted <= set(environment_of(pid))]

    def stop(self) -> None:
        """End all jobs and daemons."""
        if "slurmctld" in self.daemons:
            with contextlib.suppress(subprocess.SubprocessError):  # what does not answer is killed below
                self.call("scancel", "--user=root")
            wait_until(lambda: not self.call("squeue", "-h", "-t", "running,completing").strip(), 30, None)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        own = f"SLURM_CONF={self.root / 'slurm.conf'}".encode()
        for pid in all_processes():
            if own in environment_of(pid) and pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _daemon(self, *argv: str, label: str | None = None) -> None:
        log = (self.root / f"{label or argv[0]}.out").open("ab")
        self.daemons[label or argv[0]] = subprocess.Popen(
            argv, env=self.environment, stdout=log, stderr=log, preexec_fn=end_with(os.getpid())
        )

    def _steps(self, name: str) -> list[int]:
        """Return slurmstepd and batch processes of a node: SLURMD_NODENAME names it."""
        mark = f"SLURMD_NODENAME={name}".encode()
        own = f"SLURM_CONF={self.root / 'slurm.conf'}".encode()
        return [pid for pid in all_processes() if {mark, own} <= set(environment_of(pid))]


def all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def kill_tree(pid: int) -> None:
    """Kill a process and, since a slurmstepd has no mark of its own, its parent if that is one."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[1])
        if b"slurmstepd" in Path(f"/proc/{parent}/cmdline").read_bytes():
            os.kill(parent, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
    except (OSError, ProcessLookupError):
        return


def end_with(parent: int) -> Callable[[], None]:
    """Return what a new process calls first, to end when its parent does, in whatever way."""
    return lambda: die_with(parent)


def free_ports(count: int) -> list[int]:
    """Return ports below those that rendezvous and outgoing connections take, on which nobody listens now."""
    found: list[int] = []
    for port in random.sample(range(10000, 20000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"fewer than {count} free ports between 10000 and 20000")


def wait_until(condition: object, seconds: float, what: str | None) -> None:
    """Poll until the condition holds. `what` names it in the error, with the last failure; None gives up silently.

    A program may fail meanwhile: a controller that starts or is busy answers later.
    """
    deadline, failure = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            if condition():  # type: ignore[operator]
                return
            failure = ""
        except subprocess.SubprocessError as error:
            failure = f": {error} {getattr(error, 'stderr', None) or ''}"
        time.sleep(0.2)
    if what is not None:
        raise AssertionError(f"waited {seconds} s in vain for {what}{failure}")
