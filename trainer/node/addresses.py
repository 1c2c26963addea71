"""Addresses of this machine and of others, as far as other machines can use them. Free of torch."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from trainer.contract.errors import UserError


def own_addresses(interface: str | None = None) -> list[str]:
    """Return this node's addresses, those that only it can use last. Raises UserError for an unknown interface."""
    known = psutil.net_if_addrs()
    if interface is not None and interface not in known:
        raise UserError(f"{socket.gethostname()} has no network interface {interface!r} (it has: {', '.join(known)})")
    found = []
    for name, addresses in known.items():
        for row in addresses:
            if row.family in (socket.AF_INET, socket.AF_INET6) and interface in (None, name):
                address = ipaddress.ip_address(row.address.partition("%")[0])
                if not address.is_link_local:
                    found.append(address)
    return [str(a) for a in sorted(found, key=lambda a: (a.is_loopback, a.version))]


def interface_of(address: str) -> str | None:
    """Return the interface that has this address."""
    for name, rows in psutil.net_if_addrs().items():
        if any(row.address.partition("%")[0] == address for row in rows):
            return name
    return None


def resolve(host: str) -> list[str]:
    """Return the addresses of a name that other machines can use; none for a name that is unknown here."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM) if host else []
    except OSError:
        return []
    addresses = dict.fromkeys(str(row[4][0]) for row in found)
    return [a for a in addresses if not ipaddress.ip_address(a.partition("%")[0]).is_loopback]


def address_towards(host: str, port: int) -> str:
    """Return this machine's address on the way to a host, which its peers can reach it by. Sends nothing."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
