"""A real Slurm whose nodes are hosts of their own (see `hosts.py`): h1 is the login node with the controller.

`node_addr` and `loopback_name` make the cluster that a user meets: a NodeAddr or only names, and hosts that call
themselves 127.0.1.1 as Debian's /etc/hosts does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.cluster import hosts as host_module
from tests.cluster import slurm as slurm_module
from tests.cluster.hosts import NET, Hosts
from tests.cluster.slurm import all_processes, end_with, environment_of, wait_until
from tests.cluster.slurm_conf import munge_options, write_conf


def missing() -> str | None:
    """Return why it cannot be started here, or None."""
    return slurm_module.missing() or host_module.missing()


class SlurmHosts:
    """One cluster: h1 and `nodes` compute nodes h2, h3, ..."""

    def __init__(
        self, root: Path, *, nodes: int, node_addr: bool, loopback_name: bool, name: str = "escala", first: int = 1000
    ) -> None:
        self.root = root
        self.hosts = Hosts(root / "net", count=nodes + 1)
        self.nodes = self.hosts.names[1:]
        self.node_addr, self.loopback_name, self.name, self.first = node_addr, loopback_name, name, first
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.conf = root / "slurm" / "slurm.conf"
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Start the hosts and the daemons, and wait until every node is idle."""
        self.root.chmod(0o755)
        self.hosts.start()
        if self.loopback_name:
            self._call_themselves_loopback()
        self._write_conf()
        home = self.conf.parent
        self._daemon("munged", "h1", "munged", *munge_options(home))
        wait_until(lambda: (home / "munge.sock").exists(), 20, "munged")
        self.start_controller()
        for node in self.nodes:
            (home / "spool" / node).mkdir(exist_ok=True)
            self._daemon(node, node, "slurmd", "-D", "-N", node)
        self.wait_for_nodes()

    def start_controller(self) -> None:
        """Start slurmctld on h1."""
        self._daemon("slurmctld", "h1", "slurmctld", "-D")

    def wait_for_nodes(self) -> None:
        """Wait until every node is idle."""
        wait_until(
            lambda: self.call("sinfo", "-hN", "-p", "train", "-o", "%T").split() == ["idle"] * len(self.nodes),
            60,
            "nodes",
        )

    def begin_ids_anew(self) -> None:
        """Install the controller again, as after a lost state directory: it counts from its first id."""
        self.end_controller()
        shutil.rmtree(self.conf.parent / "state")
        (self.conf.parent / "state").mkdir()
        self.start_controller()
        wait_until(lambda: bool(self.call("sinfo", "-h")), 60, "the controller")
        self.wait_for_nodes()

    def end_controller(self) -> None:
        """End slurmctld: no program of Slurm gets an answer."""
        daemon = self.daemons.pop("slurmctld")
        for pid in self._below(daemon.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemon.wait(20)

    def call(self, *argv: str, env: dict[str, str] | None = None) -> str:
        """Run a program on h1, the login node."""
        words = self.hosts.command("h1", *argv)
        environment = self.environment if env is None else env
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def login(self, *argv: str, **more: object) -> subprocess.CompletedProcess[str]:
        """Run a program on h1 to its end, whatever that is."""
        return self.hosts.on("h1", *argv, **{"env": self.environment, **more})

    def stop(self) -> None:
        """End all jobs, daemons and hosts."""
        with contextlib.suppress(subprocess.SubprocessError, KeyError):
            self.call("scancel", "--user=root")
        self.hosts.stop()
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()
        own = f"SLURM_CONF={self.conf}".encode()
        for pid in all_processes():
            if own in environment_of(pid) and pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _call_themselves_loopback(self) -> None:
        """Give each host its own /etc/hosts, in which its own name is 127.0.1.1."""
        for name in self.hosts.names:
            rows = [f"127.0.1.1 {name}", *(f"{NET}.{n[1:]} {n}" for n in self.hosts.names if n != name)]
            table = self.root / "net" / f"hosts.{name}"
            table.write_text("\n".join(["127.0.0.1 localhost", *rows]) + "\n")
            done = self.hosts.on(name, "mount", "--bind", str(table), "/etc/hosts")
            assert done.returncode == 0, done.stderr

    def _write_conf(self) -> None:
        row = "NodeName={0}{1} CPUs=16 CoresPerSocket=16 RealMemory=8000"
        rows = [row.format(n, f" NodeAddr={NET}.{n[1:]}" if self.node_addr else "") for n in self.nodes]
        own = [f"ClusterName={self.name}", f"SlurmctldHost=h1({NET}.1)", "TaskPlugin=task/none", "MaxArraySize=4"]
        own.append("PartitionName=short Nodes=ALL MaxTime=2 State=UP PriorityTier=1 PreemptMode=REQUEUE")
        write_conf(self.conf.parent, first=self.first, nodes=rows, own=own)

    def _daemon(self, label: str, host: str, *argv: str) -> None:
        log = (self.root / f"{label}.out").open("ab")
        words = self.hosts.command(host, *argv)
        self.daemons[label] = subprocess.Popen(
            words,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=end_with(os.getpid()),
        )

    def _below(self, pid: int) -> list[int]:
        """Return a process and all that it started."""
        children = Path(f"/proc/{pid}/task/{pid}/children")
        found = [int(p) for p in children.read_text().split()] if children.exists() else []
        return [q for child in found for q in self._below(child)] + [pid]
