"""Hosts and hostfiles: what is read, and what is refused with the line."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.cluster.job import JobSpec, JobState
from launch.cluster.ssh.backend import SshBackend
from launch.cluster.ssh.connection import shell_path
from launch.cluster.ssh.hosts import Host, SshOptions, hosts_for, hosts_of, parse_host, parse_hostfile, ssh_command
from tests.launch.hostile import PAYLOADS
from trainer.contract.attempts import attempts
from trainer.contract.errors import UserError
from trainer.node.host_claim import HostClaim


def test_a_hostfile_is_read() -> None:
    text = "# comment\nn1 slots=8\nme@n2:2222  slots = 4 # four\n\n[fe80::1]:22\n"
    assert parse_hostfile(text, "f") == [
        Host("n1", slots=8),
        Host("n2", "me", 2222, 4),
        Host("fe80::1", None, 22),
    ]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_hostile_line_is_refused_or_a_plain_name(payload: str) -> None:
    try:
        hosts = parse_hostfile(f"n1\n{payload}\n", "hosts")
    except UserError as error:
        assert "hosts, line " in str(error)
        return
    for host in hosts:
        assert host.name[0].isalnum() or host.name[0] == "_", "no option of ssh"
        assert not set(host.name) & set("$`'\"\\;&|<>(){} \t\n")


@settings(max_examples=200)
@given(st.text(max_size=30))
def test_a_host_is_never_an_option_or_a_blank(text: str) -> None:
    try:
        host = parse_host(text, "x")
    except UserError:
        return
    words = ssh_command(host, SshOptions(hosts=("x",)))
    assert words[-2] == "--" and not words[-1].startswith("-") and " " not in words[-1]


def test_user_and_port_of_the_cluster_fill_gaps() -> None:
    hosts = hosts_of(SshOptions(hosts=("a", "me@b:23"), user="you", port=22))
    assert hosts == [Host("a", "you", 22), Host("b", "me", 23)]
    assert ssh_command(hosts[1], SshOptions(hosts=("a",), key="/k"))[-6:] == ["-i", "/k", "-p", "23", "--", "me@b"]


@pytest.mark.parametrize(
    ("options", "nodes", "message"),
    [
        ({"hosts": ["a"]}, 2, "needs 2 nodes, but 1 hosts are listed"),
        ({"hosts": ["a", "a"]}, 2, "a is listed twice"),
        ({}, 1, "either as `hosts` or as a `hostfile`"),
        ({"hostfile": "/nowhere/h"}, 1, "there is no hostfile /nowhere/h"),
        ({"host": ["a"]}, 1, r"unknown key 'host' \(did you mean 'hosts'\?\)"),
        ({"hosts": ["a:99999"]}, 1, "is not a host"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, nodes: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        hosts_for(JobSpec("x", ("-m", "y"), Path("/r"), nodes=nodes, extras=options))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("h2:2", r"'h2:2' names port 2: write `h2 slots=2` for slots"),
        ("me@h2:8", "names port 8: write `h2 slots=8`"),
    ],
)
def test_slots_as_mpich_writes_them_are_no_port(line: str, message: str) -> None:
    with pytest.raises(UserError, match=f"f, line 2: .*{message}"):
        parse_hostfile(f"h1\n{line}\n", "f")
    assert parse_hostfile(f"{line} slots=4", "f")[0].slots == 4, "who says both means both"


def test_a_host_may_differ_from_the_others() -> None:
    options = SshOptions(hosts=("a", {"host": "me@b:23", "python": "~/p", "directory": "/d", "slots": 2}), port=22)
    assert hosts_of(options) == [Host("a", None, 22), Host("b", "me", 23, 2, "~/p", "/d")]
    spec = JobSpec("x", ("-m", "y"), Path("/r"), nodes=2, extras=options.model_dump(exclude_none=True))
    first, _, second, order, *_ = SshBackend(python="/p", directory=Path("/c")).render(spec).splitlines()
    assert first.endswith("'cd -- /c && exec /p -u -m trainer.node.ssh_end'")
    assert second.endswith("""'cd -- /d && exec ~/p -u -m trainer.node.ssh_end'""")
    assert json.loads(order.partition("<<< ")[2])["directory"] == "/d"


@pytest.mark.parametrize(
    ("path", "opened"),
    [("~", ""), ("~/a b/c", "/a b/c"), ("~/$(x)", "/$(x)"), ("~root/x", "/x")],
)
def test_a_home_is_opened_by_the_far_shell_and_nothing_else_is(path: str, opened: str, tmp_path: Path) -> None:
    home = Path("~root").expanduser() if path.startswith("~root") else tmp_path
    words = ["sh", "-c", f"printf %s {shell_path(path)}"]
    said = subprocess.run(words, env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=True).stdout
    assert said.rstrip("/") == f"{home}{opened}"


@pytest.mark.parametrize("path", ["~$(touch x)", "~;x/", "a~/b", "~a b", "-~", "~Root`x`/"])
def test_what_only_begins_like_a_home_is_quoted(path: str) -> None:
    assert shlex.split(shell_path(path)) == [path] and shell_path(path) == shlex.quote(path)


def test_a_host_is_claimed_once_and_says_by_whom() -> None:
    name = f"\0escala-test-{os.getpid()}"
    first, second = HostClaim(name), HostClaim(name)
    assert first.take({"driver": "a:1:1", "run": "/r"}) is None
    assert first.take({"driver": "a:1:1", "run": "/r"}) is None, "twice by one connection"
    threading.Thread(target=first.answer, daemon=True).start()
    assert second.take({"driver": "b:2:2", "run": "/s"}) == {"driver": "a:1:1", "run": "/r"}
    assert first.socket is not None
    first.socket.close()
    assert second.take({"driver": "b:2:2", "run": "/s"}) is None


def test_a_claim_ends_with_its_process_and_the_same_driver_waits_for_that() -> None:
    name = f"\0escala-test-own-{os.getpid()}"
    hold = f"""
import threading, time
from trainer.node.host_claim import HostClaim
claim = HostClaim({name!r})
claim.take({{"driver": "a:1:1"}})
print("held", flush=True)
threading.Thread(target=lambda: [claim.answer() for _ in range(99)], daemon=True).start()
time.sleep(1.5)
"""
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert HostClaim(name).take({"driver": "b:1:1"}) == {"driver": "a:1:1"}
    assert HostClaim(name).take({"driver": "a:1:1"}) is None
    holder.wait(30)


def test_too_few_slots_are_named(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("a slots=8\nb slots=4\n")
    spec = JobSpec(
        "x", ("-m", "y"), Path("/r"), nodes=2, ranks_per_node=8, extras={"hostfile": str(tmp_path / "hosts")}
    )
    with pytest.raises(UserError, match="puts 8 ranks on each node, but b has 4 slots"):
        hosts_for(spec)


class Connected:
    """A host that was reached, and hears what it is told."""

    def __init__(self, host: Host) -> None:
        self.host, self.directory, self.hello = host, "/w", {"address": "192.0.2.1"}
        self.code: int | None = None
        self.closed, self.heard = False, time.monotonic()
        self.orders: list[dict] = []

    def send(self, order: dict) -> None:
        self.orders.append(order)

    def hang_up(self) -> None:
        self.closed = True

    kill = hang_up


def test_a_host_that_is_lost_again_and_again_without_a_new_checkpoint_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back each time: after three starts from one checkpoint nobody starts the ranks a fourth time."""
    made: list[Connected] = []

    def reached(hosts: list[Host], *_: object) -> list[Connected]:
        made.extend(Connected(host) for host in hosts)
        return made[-len(hosts) :]

    monkeypatch.setattr("launch.cluster.ssh.backend.connect", reached)
    backend = SshBackend(python="p", directory=Path("/w"))
    (tmp_path / "run").mkdir()
    job = backend.submit(JobSpec("x", ("-m", "y"), tmp_path / "run", nodes=2, extras={"hosts": ["h1", "h2"]}))
    states = []
    for number in range(5):
        if number == 1:
            (tmp_path / "run" / "latest").write_text("step_5")
        for node in made[-2:]:
            backend._lost(backend.jobs[job], node, "its cable was cut")  # type: ignore[arg-type]
        backend.wait(0)
        backend.jobs[job].retry_at = 0.0
        backend.wait(0)
        states.append(backend.status([job])[job])
    assert [status.state for status in states] == [JobState.RUNNING] * 4 + [JobState.FAILED]
    assert "3 attempts in a row began at step_5 and saved nothing newer: stopped" in states[-1].reason
    assert attempts(tmp_path / "run") == [1, 2, 3, 4, 5, 6] and not made[-1].orders and made[-1].closed
