"""Hosts and hostfiles: what is read, and what is refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.backends.ssh_hosts import Host, SshOptions, hosts_for, hosts_of, parse_host, parse_hostfile, ssh_command
from launch.job import JobSpec
from tests.launch.hostile import PAYLOADS
from trainer.errors import UserError


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


def test_too_few_slots_are_named(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("a slots=8\nb slots=4\n")
    spec = JobSpec(
        "x", ("-m", "y"), Path("/r"), nodes=2, ranks_per_node=8, extras={"hostfile": str(tmp_path / "hosts")}
    )
    with pytest.raises(UserError, match="puts 8 ranks on each node, but b has 4 slots"):
        hosts_for(spec)
