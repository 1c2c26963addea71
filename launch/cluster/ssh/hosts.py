"""Which machines: from the cluster YAML or a hostfile. Pure parsing; every complaint names the line."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from launch.cluster.job import JobSpec
from trainer.config.base import Section, parse_section
from trainer.contract.errors import UserError

# A host never begins with `-`, so that no option can be smuggled into the command line of ssh.
_HOST = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?\Z"
)
LEAST_PORT, SSH_PORT = 1024, 22
_LINE = re.compile(r"(?P<host>\S+)(?:\s+slots\s*=\s*(?P<slots>\d+))?\s*\Z")


@dataclass(frozen=True)
class Host:
    """One machine. `slots` is None where nobody said how many ranks it takes."""

    name: str
    user: str | None = None
    port: int | None = None
    slots: int | None = None
    python: str | None = None  # instead of the cluster's
    directory: str | None = None


class HostConfig(Section):
    """A machine that differs from the others."""

    host: str = Field(description="`[user@]host[:port]`")
    python: str | None = Field(None, description="the interpreter there, instead of the cluster's")
    directory: str | None = Field(None, description="where ranks start there, instead of the cluster's")
    slots: int | None = Field(None, gt=0, description="how many ranks it takes")


class SshOptions(Section):
    """How the machines are reached."""

    hosts: tuple[str | HostConfig, ...] = Field((), description="each `[user@]host[:port]`, or a mapping with `host`")
    hostfile: str | None = Field(None, description="lines `host slots=8`, as DeepSpeed and MPI read them")
    user: str | None = Field(None, description="who logs in, on hosts that name nobody")
    port: int | None = Field(None, gt=0, lt=65536, description="of sshd, on hosts that name none")
    key: str | None = Field(None, description="file of the private key")
    ssh_config: str | None = Field(None, description="file for `ssh -F`")
    rendezvous_host: str | None = Field(None, description="address of the first host as the others reach it")
    lost_after: float = Field(15.0, ge=5, description="seconds without a sign of life before a host counts as lost")
    reconnect_minutes: float = Field(30.0, ge=0, description="how long to wait for a lost host before giving up")
    sync: bool = Field(False, description="copy the work directory to every host with rsync before the start")
    exclusive: bool = Field(True, description="refuse a host on which another driver of any user runs ranks")


def parse_host(text: str, where: str, slots: int | None = None) -> Host:
    """Read `[user@]host[:port]`. Raises UserError."""
    match = _HOST.match(text)
    if match is None or (match["port"] and not 0 < int(match["port"]) < 65536):
        raise UserError(f"{where}: {text!r} is not a host; write [user@]host[:port]")
    return Host(match["name"].strip("[]"), match["user"], int(match["port"]) if match["port"] else None, slots)


def parse_hostfile(text: str, where: str) -> list[Host]:
    """Read `host slots=N` lines; `#` begins a comment. Raises UserError with the number of the line.

    `host:8` is a port here and the number of slots to MPICH: what can only be slots is refused.
    """
    hosts = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        match = _LINE.match(words)
        if match is None:
            raise UserError(f"{where}, line {number}: {words!r}: expected `host` or `host slots=8`")
        slots = None if match["slots"] is None else int(match["slots"])
        host = parse_host(match["host"], f"{where}, line {number}", slots)
        if host.port is not None and host.port < LEAST_PORT and host.port != SSH_PORT and slots is None:
            raise UserError(
                f"{where}, line {number}: {words!r} names port {host.port}: write `{host.name} slots={host.port}` for "
                f"slots; for that port give `slots=` too"
            )
        hosts.append(host)
    return hosts


def hosts_of(options: SshOptions) -> list[Host]:
    """Return all hosts, with the cluster's user and port where they have none of their own. Raises UserError."""
    if bool(options.hosts) == bool(options.hostfile):
        raise UserError("ssh: give the machines either as `hosts` or as a `hostfile`")
    if options.hostfile:
        path = Path(options.hostfile).expanduser()
        if not path.is_file():
            raise UserError(f"ssh: there is no hostfile {path}")
        hosts = parse_hostfile(path.read_text(encoding="utf-8"), str(path))
    else:
        hosts = [_host_of(entry) for entry in options.hosts]
    names = [(h.name, h.port) for h in hosts]
    twice = next((h for h in hosts if names.count((h.name, h.port)) > 1), None)
    if twice is not None:
        raise UserError(f"ssh: {twice.name} is listed twice; give more ranks per node instead")
    return [replace(h, user=h.user or options.user, port=h.port or options.port) for h in hosts]


def _host_of(entry: str | HostConfig) -> Host:
    if isinstance(entry, str):
        return parse_host(entry, "ssh.hosts")
    host = parse_host(entry.host, "ssh.hosts", entry.slots)
    return replace(host, python=entry.python, directory=entry.directory)


def hosts_for(spec: JobSpec) -> tuple[list[Host], SshOptions]:
    """Return the hosts that a job takes. Raises UserError where there are too few hosts or slots."""
    options = parse_section(SshOptions, dict(spec.extras), "ssh")
    hosts = hosts_of(options)
    if spec.nodes > len(hosts):
        raise UserError(f"job {spec.name!r} needs {spec.nodes} nodes, but {len(hosts)} hosts are listed")
    small = next((h for h in hosts[: spec.nodes] if h.slots is not None and h.slots < spec.ranks_per_node), None)
    if small is not None:
        raise UserError(
            f"job {spec.name!r} puts {spec.ranks_per_node} ranks on each node, but {small.name} has {small.slots} slots"
        )
    return hosts[: spec.nodes], options


def ssh_command(host: Host, options: SshOptions) -> list[str]:
    """Return the words of ssh up to the remote command. It never asks for a password, and it notices a dead link."""
    beat = max(1, int(options.lost_after // 3))
    words = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    words += ["-o", f"ServerAliveInterval={beat}", "-o", "ServerAliveCountMax=3"]
    if options.ssh_config:
        words += ["-F", str(Path(options.ssh_config).expanduser())]
    if options.key:
        words += ["-i", str(Path(options.key).expanduser())]
    if host.port:
        words += ["-p", str(host.port)]
    return [*words, "--", f"{host.user}@{host.name}" if host.user else host.name]
