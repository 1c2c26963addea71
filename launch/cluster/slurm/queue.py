"""Questions to Slurm about jobs: by id, whoever asks, and never answered by another job that has the id now."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from launch.cluster.process import Call, CallError
from launch.cluster.slurm.environment import client_environment
from launch.cluster.slurm.states import SACCT_FIELDS, SQUEUE_FIELDS, Listed, parse_rows
from trainer.contract.errors import UserError

AT_A_TIME = 1000  # ids of one question: a command line has an end


def user_name() -> str:
    """Return who runs this process, as Slurm names it: a number where nothing gives it a name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


class SlurmQueue:
    """The Slurm of this machine. Every question has a time limit; UserError says that there was no answer."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def ask(self, *argv: str) -> str:
        """Run one of Slurm's programs, in an environment that changes none of its options."""
        return self._call(list(argv), env=client_environment(os.environ))

    @cached_property
    def settings(self) -> dict[str, str]:
        """The controller's configuration."""
        rows = (line.partition("=") for line in self.ask("scontrol", "show", "config").splitlines())
        return {key.strip(): value.strip() for key, _, value in rows}

    @property
    def site(self) -> str:
        """The name of this cluster."""
        return self.settings.get("ClusterName", "")

    @property
    def shows_all_jobs(self) -> bool:
        """Tell whether one user sees the jobs of another."""
        return "jobs" not in self.settings.get("PrivateData", "").lower()

    @property
    def longest_array(self) -> int:
        """The most tasks of one array: indices end below MaxArraySize."""
        text = self.settings.get("MaxArraySize", "")
        return int(text) if text.isdigit() and int(text) > 0 else 1001

    def listed(self, ids: Iterable[str]) -> dict[str, Listed]:
        """Return the rows of jobs, and of the tasks of arrays, that the controller still knows."""
        found: dict[str, Listed] = {}
        for some in _bases(ids):
            words = ["--noheader", "--array", "--states=all", f"--jobs={some}", f"--Format={SQUEUE_FIELDS}"]
            try:
                found |= parse_rows(self.ask("squeue", *words))
            except CallError as error:
                if "Invalid job id" not in error.text:  # said of a single id that it does not know
                    raise
        return found

    def accounted(self, ids: Iterable[str]) -> dict[str, Listed]:
        """Return what accounting keeps about jobs; nothing where there is none."""
        found: dict[str, Listed] = {}
        for some in _bases(ids):
            words = ["--noheader", "--allocations", "--parsable2", f"--format={SACCT_FIELDS}", f"--jobs={some}"]
            try:
                found |= parse_rows(self.ask("sacct", *words))
            except UserError:  # no accounting here, or not now: the run directory says how it ended
                break
        return found

    def limit_seconds(self, partition: str | None) -> int | None:
        """Return the time that a partition gives to a job which asks for none; None for no limit or no answer."""
        try:
            lines = self.ask("scontrol", "-o", "show", "partition").splitlines()
        except UserError:
            return None
        for line in lines:
            fields = dict(word.partition("=")[::2] for word in line.split())
            if fields.get("PartitionName") == partition or (partition is None and fields.get("Default") == "YES"):
                limits = [seconds(fields.get(key, "")) for key in ("DefaultTime", "MaxTime")]
                return next((limit for limit in limits if limit is not None), None)
        return None


def _bases(ids: Iterable[str]) -> Iterator[str]:
    """Yield the ids of jobs, those of arrays without their tasks, in lists that a command line can hold."""
    bases = sorted({job.partition("_")[0] for job in ids})
    for start in range(0, len(bases), AT_A_TIME):
        yield ",".join(bases[start : start + AT_A_TIME])


def seconds(text: str) -> int | None:
    """Read Slurm's notation of a time, DAYS-HOURS:MINUTES:SECONDS; None for NONE and UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    if found is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
