"""Where nodes meet: at an address that all of them have reached, and nobody waits for a node without its name."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.contract.exit_codes import EXIT_FAILED, EXIT_FENCED, EXIT_PORT_TAKEN, EXIT_USER_ERROR
from trainer.node import addresses, meeting
from trainer.node.agent import main
from trainer.node.gathering import gather
from trainer.node.meeting import AbsentError, Meeting, Party, PortTakenError, meet


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def party(logs: Path, port: int, **more: object) -> Party:
    values = {"nodes": 3, "is_host": False, "identity": "7.1", "hint": "", "timeout": 20.0, "names": ("n1", "n2", "n3")}
    return Party(**{**values, "port": port, "logs": logs, **more})  # type: ignore[arg-type]


class Node(threading.Thread):
    """One node in a thread of its own."""

    def __init__(self, party: Party) -> None:
        super().__init__(daemon=True)
        self.party = party
        self.found: Meeting | Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.found = meet(self.party)
        except Exception as error:
            self.found = error

    def end(self) -> Meeting | Exception | None:
        self.join(30)
        return self.found


@pytest.mark.parametrize("hint", ["", "127.0.1.1", "localhost", "no.such.host.invalid", "192.0.2.77"])
def test_nodes_meet_whatever_the_hint_says(
    tmp_path: Path, port: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loopback, an unknown name, and an address of nobody: what counts is where the first node answers."""
    monkeypatch.setattr(meeting, "CONNECT_SECONDS", 0.3)
    late = [Node(party(tmp_path, port, hint=hint)) for _ in range(2)]
    host = Node(party(tmp_path, port, hint=hint, is_host=True))
    found = [node.end() for node in (host, *late)]
    assert all(isinstance(one, Meeting) for one in found), found
    (address,) = {one.address for one in found if isinstance(one, Meeting)}
    usable = [a for a in addresses.own_addresses() if not a.startswith("127.") and a != "::1"]
    assert address in usable or not usable
    with socket.socket() as free:  # torchrun takes the port next
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("", port))


def test_an_older_attempt_and_strangers_are_not_taken_for_peers(tmp_path: Path, port: int) -> None:
    host = Node(party(tmp_path, port, is_host=True, nodes=2, timeout=2.0))
    stale = Node(party(tmp_path, port, identity="7.0", hint=addresses.own_addresses()[0], timeout=1.0, nodes=2))
    for _ in range(50):
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            break
        except OSError:
            time.sleep(0.02)
    assert isinstance(host.end(), AbsentError) and isinstance(stale.end(), AbsentError)


def test_who_does_not_come_is_named_on_both_sides(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "TELL_SECONDS", 0.4)
    host = Node(party(tmp_path, port, is_host=True, timeout=2.0))
    time.sleep(0.2)
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    present = Node(party(tmp_path, port, timeout=3.0))
    assert str(host.end()).startswith("n3") or "of 3 nodes" in str(host.end())
    assert "did not come" in str(host.end()) and isinstance(present.end(), AbsentError)
    alone = Node(replace(party(tmp_path / "x", port), timeout=0.5, hint="127.0.0.1"))
    assert "did not reach n1" in str(alone.end()) and "`interface`" in str(alone.end())


def test_the_missing_are_in_the_run_directory_while_they_are_waited_for(tmp_path: Path, port: int) -> None:
    waiting = tmp_path / meeting.WAITING
    seen: list[str] = []

    def check() -> None:
        if waiting.exists():
            seen.append(json.loads(waiting.read_text())["missing"])
            raise TimeoutError

    old, meeting.TELL_SECONDS = meeting.TELL_SECONDS, 0.1
    try:
        with pytest.raises(TimeoutError):
            meet(party(tmp_path, port, is_host=True), check)
    finally:
        meeting.TELL_SECONDS = old
    assert seen == ["n1, n2, n3"] or "nodes" in seen[0]


def test_a_port_that_is_taken_is_told_apart(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as other:
        number = other.getsockname()[1]
        with pytest.raises(PortTakenError, match="Address already in use"):
            meet(party(tmp_path, number, is_host=True))
        assert gather(party(tmp_path, number, is_host=True), lambda: False) == EXIT_PORT_TAKEN == errno.EADDRINUSE
    (failure,) = tmp_path.glob("failure_*.json")
    assert "Address already in use" in json.loads(failure.read_text())["message"]
    assert gather(party(tmp_path, number), lambda: False) == EXIT_FAILED, "the others do not wait for it"
    assert gather(party(tmp_path, number), lambda: True) == EXIT_FENCED


def test_an_interface_is_taken_or_refused_by_name(tmp_path: Path, port: int) -> None:
    host = Node(party(tmp_path, port, is_host=True, nodes=2, interface="lo"))
    peer = Node(party(tmp_path, port, nodes=2, interface="lo"))
    found = [host.end(), peer.end()]
    assert [(m.address, m.interface) for m in found if isinstance(m, Meeting)] == [("127.0.0.1", "lo")] * 2
    code = gather(party(tmp_path / "x", port, is_host=True, interface="ib7"), lambda: False)
    assert code == EXIT_USER_ERROR
    (failure,) = (tmp_path / "x").glob("failure_*.json")
    assert "no network interface 'ib7' (it has: " in json.loads(failure.read_text())["message"]


def test_two_agents_on_one_host_keep_both_failures(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for process in (11, 12):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        (tmp_path / "x").mkdir(exist_ok=True)
        assert gather(party(tmp_path / "x", port, is_host=True, interface="ib7"), lambda: False) != 0
        for kept in (tmp_path / "x").glob("failure_*.json"):  # a peer's failure would end the second at once
            kept.rename(tmp_path / kept.name)
    assert len(list(tmp_path.glob("failure_*.json"))) == 2


def test_a_signal_before_the_ranks_begin_leaves_as_saved(tmp_path: Path, port: int) -> None:
    words = ["-m", "trainer.node.agent", "--run-dir", str(tmp_path), "--nodes", "2", "--host"]
    words += ["--rendezvous", f":{port}", "--", "-m", "nothing"]
    agent = subprocess.Popen([sys.executable, *words], env={**os.environ, "SLURM_NODEID": "0"})
    told = tmp_path / "logs" / "1" / meeting.FILE
    deadline = time.monotonic() + 120
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    waits = told.exists()
    agent.terminate()
    assert agent.wait(60) == 75
    assert waits, "the first node had claimed an attempt and listened for the other"


def test_a_single_node_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_server", lambda *a, **k: pytest.fail("nothing to wait for"))
    assert meet(party(tmp_path, 1, nodes=1, is_host=True)) == Meeting("127.0.0.1", "127.0.0.1", None)
    with pytest.raises(SystemExit):
        main(["--run-dir", str(tmp_path)])
