"""Machines on one machine: network, process, mount and host-name namespaces of their own, each with an sshd.

A bridge in a namespace of its own joins them, so nothing reaches the real network. Needs root, iproute2, util-linux and
openssh-server. `cut` pulls a host's cable, `heal` puts it back.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

from tests.cluster.slurm import all_processes, end_with, wait_until

PROGRAMS = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "/usr/sbin/sshd")
NET = "192.0.2"  # TEST-NET-1, never routed

SSHD = """\
Port 22
HostKey {root}/hostkey
PidFile none
AuthorizedKeysFile {root}/ssh/authorized_keys
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
MaxStartups 100
"""

INIT = """\
#!/bin/bash
# The first process of a host: when it ends, the kernel ends all others there.
hostname "$2"; mount --make-rprivate /
mount -t proc proc /proc; mount -t tmpfs -o size=1g tmpfs /dev/shm
mount --bind "$1/hosts" /etc/hosts; mount --bind "$1/ssh" /root/.ssh
mkdir -p /run/sshd
exec /usr/sbin/sshd -D -f "$1/sshd_config" -E "$1/sshd.$2.log"
"""


def missing() -> str | None:
    """Return why no hosts can be started here, or None."""
    if os.geteuid() != 0:
        return "namespaces need root"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    probe = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "this system does not allow namespaces"


class Hosts:
    """Hosts h1, h2, ..."""

    def __init__(self, root: Path, count: int) -> None:
        self.root = root
        self.names = [f"h{i}" for i in range(1, count + 1)]
        self.prefix = f"t{secrets.token_hex(3)}"
        self.init: dict[str, subprocess.Popen[bytes]] = {}
        self.pids: dict[str, int] = {}

    def start(self) -> None:
        """Make keys, the bridge and the hosts, and wait until each answers."""
        ssh = self.root / "ssh"
        ssh.mkdir(parents=True)
        ssh.chmod(0o700)
        for key in (ssh / "id_ed25519", self.root / "hostkey"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        shutil.copy(ssh / "id_ed25519.pub", ssh / "authorized_keys")
        kind, key = (self.root / "hostkey.pub").read_text().split()[:2]
        (ssh / "known_hosts").write_text("".join(f"{h},{NET}.{i} {kind} {key}\n" for i, h in enumerate(self.names, 1)))
        table = "".join(f"{NET}.{i} {h}\n" for i, h in enumerate(self.names, 1))
        (self.root / "hosts").write_text("127.0.0.1 localhost\n" + table)
        (self.root / "sshd_config").write_text(SSHD.format(root=self.root))
        (self.root / "init").write_text(INIT)
        Path("/root/.ssh").mkdir(mode=0o700, exist_ok=True)
        switch = f"{self.prefix}sw"
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        for index, name in enumerate(self.names, 1):
            self._start_host(index, name)
        for name in self.names:
            wait_until(lambda n=name: self.on("h1", "ssh", n, "true").returncode == 0, 30, f"sshd on {name}")

    def on(self, host: str, *argv: str, **more: object) -> subprocess.CompletedProcess[str]:
        """Run a program on a host, to its end."""
        return subprocess.run(self.command(host, *argv), capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]

    def command(self, host: str, *argv: str) -> list[str]:
        """Return the words that run a program on a host, in this working directory."""
        return [
            "nsenter",
            "-t",
            str(self.pids[host]),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            f"--wdns={Path.cwd()}",
            "--",
            *argv,
        ]

    def processes(self, host: str, mark: str) -> dict[int, str]:
        """Return the command lines on a host that contain a word, by process id as it is outside the host."""
        space = os.readlink(f"/proc/{self.pids[host]}/ns/pid")
        found = {}
        for pid in all_processes():
            with contextlib.suppress(OSError):  # it has just ended
                line = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
                if mark in line and os.readlink(f"/proc/{pid}/ns/pid") == space:
                    found[pid] = line
        return found

    def cut(self, host: str) -> None:
        """Pull the cable at the switch."""
        run("ip", "-n", f"{self.prefix}sw", "link", "set", f"p{host[1:]}", "down")

    def heal(self, host: str) -> None:
        """Put the cable back."""
        run("ip", "-n", f"{self.prefix}sw", "link", "set", f"p{host[1:]}", "up")

    def stop(self) -> None:
        """End every host and remove the namespaces."""
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.init.values():
            process.wait(10)
        for name in [*self.names, "sw"]:
            subprocess.run(["ip", "netns", "del", f"{self.prefix}{name}"], check=False, capture_output=True)

    def _start_host(self, index: int, name: str) -> None:
        switch, space = f"{self.prefix}sw", f"{self.prefix}{name}"
        run("ip", "netns", "add", space)
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", f"p{index}", "netns", switch)
        run("ip", "-n", switch, "link", "set", f"p{index}", "master", "br0")
        run("ip", "-n", switch, "link", "set", f"p{index}", "up")
        run("ip", "-n", space, "addr", "add", f"{NET}.{index}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")
        words = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "bash", f"{self.root}/init"]
        log = (self.root / f"init.{name}.log").open("wb")
        outer = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{space}", *words, str(self.root), name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with(os.getpid()),
        )
        self.init[name] = outer
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        wait_until(lambda: children.read_text().split() != [], 10, f"the first process of {name}")
        self.pids[name] = int(children.read_text().split()[0])


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
