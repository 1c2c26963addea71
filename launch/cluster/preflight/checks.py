"""From what the nodes say about themselves to OK, WARN or FAIL, each with a fix. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from launch.show.text import size

Report = dict[str, Any]

DISK_WANTED = 20 * 2**30
SHM_WANTED = 1 * 2**30
SKEW_WARN, SKEW_FAIL = 2.0, 60.0


class Level(StrEnum):
    """How a check went."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Check:
    """One answer. `fix` says what to do about it; empty when nothing is wrong."""

    name: str
    level: Level
    detail: str
    fix: str = ""


def evaluate(reports: list[Report], *, nodes: int, ranks_per_node: int, gpu: bool, asked_at: float) -> list[Check]:
    """Judge the reports of the nodes that answered. `asked_at` is this machine's clock when they were asked."""
    checks = [_answered(reports, nodes)]
    if reports:
        checks += [*_versions(reports), *_devices(reports, ranks_per_node, gpu), *_storage(reports, nodes)]
        checks += [_clock(reports, asked_at), _ports(reports), _wandb(reports)]
    return checks


def _answered(reports: list[Report], nodes: int) -> Check:
    hosts = ", ".join(sorted(r["host"] for r in reports))
    if len(reports) == nodes:
        return Check("nodes", Level.OK, f"{nodes} answered: {hosts}")
    return Check(
        "nodes",
        Level.FAIL,
        f"{len(reports)} of {nodes} answered{': ' + hosts if hosts else ''}",
        "see the errors above; check `python` and `directory` of the cluster file on the silent nodes",
    )


def _versions(reports: list[Report]) -> Iterator[Check]:
    wanted = {"python": [r["python"] for r in reports]}
    for package in reports[0]["packages"]:
        wanted[package] = [r["packages"][package] for r in reports]
    missing = sorted(name for name, values in wanted.items() if None in values)
    differ = {name: Counter(values) for name, values in wanted.items() if len(set(values)) > 1}
    if missing:
        yield Check(
            "packages", Level.FAIL, f"missing: {', '.join(missing)}", "pip install -r requirements.txt on every node"
        )
    if differ:
        shown = "; ".join(f"{name} {dict(counts)}" for name, counts in differ.items())
        yield Check(
            "versions", Level.FAIL, f"nodes differ: {shown}", "use one environment for all nodes, or one container"
        )
    else:
        known = ", ".join(f"{name} {wanted[name][0]}" for name in ("python", "torch", "deepspeed"))
        yield Check("versions", Level.OK, f"{known} on every node")


def _devices(reports: list[Report], ranks_per_node: int, gpu: bool) -> Iterator[Check]:
    counts = {r["host"]: len(r["gpus"]) for r in reports}
    few = {host: count for host, count in counts.items() if count < ranks_per_node}
    if gpu and few:
        yield Check(
            "GPUs", Level.FAIL, f"fewer than {ranks_per_node}: {few}", "lower ranks_per_node, or ask for more GPUs"
        )
    elif gpu:
        names = Counter(g["name"] for r in reports for g in r["gpus"])
        yield Check(
            "GPUs",
            Level.OK if len(names) == 1 else Level.WARN,
            str(dict(names)),
            "" if len(names) == 1 else "one kind of GPU is best: the slowest sets the pace",
        )
    elif any(counts.values()):
        yield Check(
            "GPUs",
            Level.WARN,
            f"there are {sum(counts.values())}, which the cluster file does not name",
            "set `gpu` in the cluster file",
        )
    else:
        cores = min(r["cores"] for r in reports)
        level = Level.OK if cores >= ranks_per_node else Level.WARN
        yield Check(
            "cores",
            level,
            f"{cores} for {ranks_per_node} ranks",
            "" if level is Level.OK else "ranks will share cores: lower ranks_per_node",
        )
    bad = [r["host"] for r in reports for g in r["gpus"] if g["ecc_errors"] not in ("0", "[N/A]", "N/A")]
    if bad:
        yield Check(
            "GPU memory", Level.FAIL, f"uncorrected errors on {', '.join(sorted(set(bad)))}", "drain these nodes"
        )


def _storage(reports: list[Report], nodes: int) -> Iterator[Check]:
    cannot = {r["host"]: r["write_error"] for r in reports if r["write_error"]}
    blind = sorted(r["host"] for r in reports if r["seen"] < nodes)
    if cannot:
        yield Check(
            "run directory",
            Level.FAIL,
            f"cannot be written: {cannot}",
            "choose --runs DIR that every node may write to",
        )
    elif blind and len(reports) == nodes:
        yield Check(
            "shared filesystem",
            Level.FAIL,
            f"{', '.join(blind)} see only some nodes' files",
            "put runs on a filesystem that all nodes share (--runs DIR)",
        )
    else:
        slow = max(r["write_seconds"] or 0.0 for r in reports)
        yield Check(
            "shared filesystem", Level.OK, f"a file of each node is seen by all, written in {slow * 1000:.0f} ms"
        )
    least = min(reports, key=lambda r: r["disk_free"])
    enough = least["disk_free"] >= DISK_WANTED
    yield Check(
        "disk",
        Level.OK if enough else Level.WARN,
        f"{size(least['disk_free'])} free on {least['host']}",
        "" if enough else "checkpoints need room: keep_last, or another --runs DIR",
    )
    small = min(reports, key=lambda r: r["shm_free"])
    enough = small["shm_free"] >= SHM_WANTED
    yield Check(
        "/dev/shm",  # noqa: S108 - a label
        Level.OK if enough else Level.WARN,
        f"{size(small['shm_free'])} free on {small['host']}",
        "" if enough else "ranks of a node talk through it: docker --shm-size=16g",
    )


def _clock(reports: list[Report], asked_at: float) -> Check:
    """Nodes answer within seconds of each other, so a larger spread is skew; the start of Python is in it too."""
    times = [r["time"] - asked_at for r in reports]
    spread = max(times) - min(times)
    behind = -min(times)
    skew = max(spread, behind)
    if skew < SKEW_WARN:
        return Check("clocks", Level.OK, f"within {max(skew, 0.0):.1f} s")
    level = Level.FAIL if skew > SKEW_FAIL else Level.WARN
    return Check(
        "clocks",
        level,
        f"differ by up to {skew:.1f} s (or nodes answered so far apart)",
        "run chrony or ntpd on every node",
    )


def _ports(reports: list[Report]) -> Check:
    closed = [r["host"] for r in reports if not r["port"]]
    if closed:
        return Check("ports", Level.FAIL, f"{', '.join(closed)} cannot listen", "lift the limit on sockets there")
    return Check("ports", Level.OK, "every node can listen")


def _wandb(reports: list[Report]) -> Check:
    away = [r["host"] for r in reports if not r["wandb"]]
    if away:
        return Check(
            "W&B",
            Level.WARN,
            f"not reachable from {', '.join(away)}",
            "runs stay offline there; `escala wandb sync` sends them later",
        )
    return Check("W&B", Level.OK, "reachable from every node")


def bandwidth(found: dict[str, Any] | None, problem: str, world: int) -> Check:
    """Judge the all-reduce that was run over all ranks."""
    if found is None:
        return Check("all-reduce", Level.FAIL, problem, "read the logs of the job; is a firewall between the nodes?")
    if not found["right"] or found["world"] != world:
        return Check(
            "all-reduce", Level.FAIL, f"wrong sum over {found['world']} of {world} ranks", "test the network cards"
        )
    return Check("all-reduce", Level.OK, f"{found['bus'] / 1e9:.2f} GB/s bus bandwidth over {world} ranks (64 MiB)")
