"""Where the nodes of a job meet: an address of the first node that every other node has reached. Free of torch.

What a node calls itself is of no use to others: Debian's /etc/hosts makes it 127.0.1.1, a scheduler may only know a
name, and of several networks not all join the nodes. So the first node listens, the others try every address that it
has, and it picks one at which all of them found it. They first try the hint of the scheduler, then what the first node
wrote into the run directory. The attempt's identity tells the first node from another machine with the same address.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.contract.run_dir import write_atomically
from trainer.node.addresses import address_towards, interface_of, own_addresses, resolve
from trainer.node.json_line import Line
from trainer.node.names import own_name

CONNECT_SECONDS = 3.0
ROUND_SECONDS = 0.5
TELL_SECONDS = 60.0  # after which the missing are named, and every so often
FILE = "meeting.json"  # the first node's addresses
WAITING = "waiting.json"  # who is missing, while somebody is


class PortTakenError(Exception):
    """Another program listens on the port."""


class AbsentError(Exception):
    """Nodes did not find one another. The text names them."""


@dataclass(frozen=True)
class Meeting:
    """What to tell `torchrun`: the first node's address, this node's own on the same network, and its interface."""

    address: str
    local: str
    interface: str | None


@dataclass(frozen=True)
class Party:
    """The nodes that are to meet, as one of them knows it."""

    nodes: int
    is_host: bool
    identity: str
    hint: str  # host name or address of the first node, as the scheduler knows it; "" for none
    port: int
    logs: Path
    timeout: float
    names: tuple[str, ...] = ()
    interface: str | None = None

    @property
    def me(self) -> str:
        """Return the name under which this node meets the others."""
        return own_name()


def meet(party: Party, check: Callable[[], None] = lambda: None) -> Meeting:
    """Return the meeting point. `check` is called often and may raise to leave.

    Raises AbsentError when a node does not come in time, PortTakenError, and UserError for an unknown interface.
    """
    own = own_addresses(party.interface)
    if party.nodes == 1:
        return Meeting("127.0.0.1", "127.0.0.1", None)
    if not party.is_host:
        return _come(party, check)
    hinted = resolve(party.hint) if party.interface is None else []
    own.sort(key=lambda a: a not in hinted)  # the network that the scheduler knows, where others are no worse
    address = _Host(party, [*own, *(a for a in hinted if a not in own)]).receive(check)
    local = address if address in own else address_towards(address, party.port)
    return Meeting(address, local, interface_of(local))


class _Host:
    """The first node: takes in what the others found, until all are there."""

    def __init__(self, party: Party, addresses: list[str]) -> None:
        self.party = party
        self.addresses = addresses
        self.lines: list[Line] = []
        self.reached: dict[Line, tuple[str, list[str]]] = {}  # a peer's name, and where it found this node
        self.began = time.monotonic()
        self.tell_at = TELL_SECONDS / 2

    def receive(self, check: Callable[[], None]) -> str:
        """Wait for the others, and tell them at which address all of them have found this node."""
        party = self.party
        with contextlib.closing(_listen(party.port)) as listener:
            told = {"id": party.identity, "addresses": self.addresses}
            write_atomically(party.logs / FILE, json.dumps(told) + "\n")
            try:
                while len(self.reached) < party.nodes - 1:
                    self._take_in(listener, told)
                    check()
                    self._name_the_missing()
                (party.logs / WAITING).unlink(missing_ok=True)
                return self._answer()
            finally:
                for line in self.lines:
                    line.close()

    def _take_in(self, listener: socket.socket, told: dict[str, Any]) -> None:
        with contextlib.suppress(TimeoutError):
            self.lines.append(Line(listener.accept()[0]))
            self.lines[-1].socket.settimeout(0)
        for line in list(self.lines):
            for message in line.messages():
                if message.get("id") != self.party.identity:  # of another attempt
                    line.ended = True
                elif "reached" in message:
                    self.reached[line] = (str(message["name"]), list(message["reached"]))
                else:
                    line.send(told)
            if line.ended:
                self.lines.remove(line)
                self.reached.pop(line, None)
                line.close()

    def _answer(self) -> str:
        found = list(self.reached.values())
        address = next((a for a in self.addresses if all(a in where for _, where in found)), None)
        if address is None:
            seen = "; ".join(f"{name} at {', '.join(where) or 'none'}" for name, where in found)
            raise AbsentError(f"nodes reach {self.party.me} at no common address ({seen}): name an `interface`")
        for line in self.reached:
            line.send({"meet": address})
        for line in self.reached:  # the far end closes first, which leaves the port free at once
            line.wait_for_end(CONNECT_SECONDS)
        return address

    def _name_the_missing(self) -> None:
        party, waited = self.party, time.monotonic() - self.began
        if waited < min(self.tell_at, party.timeout):
            return
        self.tell_at += TELL_SECONDS
        missing = _missing(party, [name for name, _ in self.reached.values()])
        if waited >= party.timeout:
            raise AbsentError(f"{missing} did not come to {party.me}, port {party.port}, within {waited:.0f} s")
        print(f"{party.me} waits for {missing} since {waited:.0f} s (port {party.port})", flush=True)
        write_atomically(party.logs / WAITING, json.dumps({"missing": missing}) + "\n")


def _listen(port: int) -> socket.socket:
    try:
        try:
            listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                raise
            listener = socket.create_server(("", port), backlog=1024)  # no IPv6 here
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(f"port {port} of {socket.gethostname()} is taken: Address already in use") from None
        raise
    listener.settimeout(0.1)
    return listener


def _missing(party: Party, came: list[str]) -> str:
    absent = [name for name in party.names if name not in (*came, party.me)]
    if len(absent) == party.nodes - 1 - len(came):
        return ", ".join(absent)
    return f"{party.nodes - 1 - len(came)} of {party.nodes} nodes (here: {', '.join([party.me, *came])})"


def _come(party: Party, check: Callable[[], None]) -> Meeting:
    """Find the first node, tell it where it was found, and wait for its answer."""
    began, tell_at, tried = time.monotonic(), TELL_SECONDS, dict[str, str]()
    while True:
        for line, address, others in _find(party, tried):
            with contextlib.closing(line):
                others = [a for a in others if a != address]
                with ThreadPoolExecutor(8) as pool:  # an address that drops what it gets costs seconds
                    reached = list(pool.map(lambda a: _probe(party, a), others))
                found = [address, *(a for a, one in zip(others, reached, strict=True) if one)]
                line.send({"id": party.identity, "name": party.me, "reached": found})
                answer = _answer(line, party, began, check)
                if answer is not None:
                    local = address_towards(answer, party.port)
                    return Meeting(answer, local, interface_of(local))
        check()
        waited = time.monotonic() - began
        first = party.names[0] if party.names else party.hint or "the first node"
        where = "; ".join(f"{a}: {why}" for a, why in tried.items()) or f"{party.hint!r} has no address here"
        if waited > party.timeout:
            raise AbsentError(
                f"{party.me} did not reach {first} on port {party.port} within {waited:.0f} s ({where}): "
                "is the port open between nodes? Name the network that joins them as `interface`"
            )
        if waited > tell_at:
            tell_at += TELL_SECONDS
            print(f"{party.me} does not reach {first} since {waited:.0f} s ({where})", flush=True)
        time.sleep(ROUND_SECONDS)


def _answer(line: Line, party: Party, began: float, check: Callable[[], None]) -> str | None:
    """Wait until all have come. None when the first node went away: it may come again."""
    line.socket.settimeout(ROUND_SECONDS)
    while not line.ended and time.monotonic() - began < party.timeout + TELL_SECONDS:  # it names who is missing
        for message in line.messages():
            if "meet" in message:
                return str(message["meet"])
        check()
    return None


def _find(party: Party, tried: dict[str, str]) -> Iterator[tuple[Line, str, list[str]]]:
    """Yield a connection to the first node, the address at which it answered, and all that it has."""
    candidates = resolve(party.hint)
    with contextlib.suppress(OSError, ValueError):
        told = json.loads((party.logs / FILE).read_text())
        candidates += [a for a in told["addresses"] if told["id"] == party.identity and a not in candidates]
    for address in candidates:
        try:
            line, answer = _greet(party, address)
        except OSError as error:
            tried[address] = str(error.strerror or error or type(error).__name__)
            continue
        yield line, address, list(answer["addresses"])
        return


def _greet(party: Party, address: str) -> tuple[Line, dict[str, Any]]:
    """Connect, and make sure who answers. Raises OSError."""
    line = Line(socket.create_connection((address, party.port), CONNECT_SECONDS))
    line.send({"id": party.identity})
    deadline = time.monotonic() + CONNECT_SECONDS
    while time.monotonic() < deadline and not line.ended:
        for message in line.messages():
            if message.get("id") == party.identity:
                return line, message
    line.close()
    raise OSError("another program answers")


def _probe(party: Party, address: str) -> bool:
    try:
        _greet(party, address)[0].close()
    except OSError:
        return False
    return True
