"""Handing a job to `sbatch`, and finding out which id it got: sites print banners around it, wrappers drop options."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from launch.cluster.job import JobSpec
from launch.cluster.process import Call, CallError
from launch.cluster.quoting import label
from launch.cluster.registry import shard_size
from launch.cluster.secret_names import check_secrets
from launch.cluster.slurm.environment import export_option, job_environment
from launch.cluster.slurm.queue import SlurmQueue
from launch.cluster.slurm.script import SBATCH_OPTIONS, check_signal, render_script, slurm_options
from trainer.contract.errors import UserError

_NO_SUCH_NODES = "Requested node configuration is not available"
_ID = re.compile(r"(?:Submitted batch job )?(\d+)(?:;[\w.-]+)?(?: on cluster \S+)?\s*\Z")


class SlurmSubmission:
    """Submits jobs. `python` and `directory` are valid on the cluster's nodes, `secrets` are names of variables."""

    def __init__(self, call: Call, queue: SlurmQueue, python: str, directory: Path, secrets: tuple[str, ...]) -> None:
        self.call = call
        self.queue = queue
        self.python = python
        self.directory = directory
        self.secrets = secrets

    def render(self, spec: JobSpec, behind: str | None = None) -> str:
        """Return the batch script of a job, which starts when the job `behind` has ended."""
        return render_script(spec, python=self.python, directory=self.directory, secrets=self.secrets, behind=behind)

    def rehearse(self, spec: JobSpec) -> None:
        """Have sbatch judge the script and queue nothing. Raises UserError for what it refuses.

        It is stricter than a submission, which may wait for nodes that are down or drained now: those are no reason.
        """
        check_secrets(self.secrets, os.environ)
        script = self.render(spec)
        if spec.array:  # its length changes nothing that is judged, except that it may be more than one array
            script = self.render(replace(spec, array=spec.array[:1]))
        try:
            self._sbatch(spec, script, "--test-only")
        except CallError as error:
            if not (_NO_SUCH_NODES in error.text and self._nodes_are_away(spec)):
                raise UserError(self._explain(spec, error)) from None
        self._check_limit(spec)

    def submit(self, spec: JobSpec) -> str:
        """Submit a job and return its id; those of several arrays, with commas, where one is too short for it.

        Raises UserError. Nothing stays queued then, except where the message says so.
        """
        check_secrets(self.secrets, os.environ)
        self._check_limit(spec)
        jobs: list[str] = []
        for shard in self._shards(spec):
            behind = jobs[-1] if jobs and spec.array_cap is not None else None  # or they would exceed it together
            script = self.render(shard, behind)
            for task in shard.tasks:
                task.run_dir.mkdir(parents=True, exist_ok=True)
            shard.run_dir.mkdir(parents=True, exist_ok=True)
            try:
                jobs.append(self._id_in(self._sbatch(shard, script, "--parsable"), shard))
            except UserError as error:
                reason = self._explain(spec, error) if isinstance(error, CallError) else str(error)
                raise UserError(reason + self._take_back(jobs)) from None
        return ",".join(jobs)

    def _take_back(self, jobs: list[str]) -> str:
        """Cancel jobs; return what to add to the reason for it: nothing, or which of them are still queued."""
        left = []
        for job in jobs:
            try:
                self.queue.ask("scancel", job)
            except UserError:
                left.append(job)
        return f"; still queued, for scancel failed too: {', '.join(left)}" if left else ""

    def _check_limit(self, spec: JobSpec) -> None:
        """Refuse a job that would be told to save as soon as it begins, by the limit of its partition."""
        options = slurm_options(spec)
        if spec.time_limit is None:
            limit = self.queue.limit_seconds(options.partition)
            if limit is not None:
                check_signal(options.signal_seconds, limit, f"that of partition {options.partition or 'by default'}")

    def _shards(self, spec: JobSpec) -> Iterator[JobSpec]:
        """Yield the job, or the arrays into which it must be divided."""
        longest = self.queue.longest_array if spec.array else 1
        if len(spec.array) <= longest:
            yield spec
            return
        size = shard_size(len(spec.array), -(-len(spec.array) // longest))
        for start in range(0, len(spec.array), size):
            yield replace(spec, array=spec.array[start : start + size])

    def _sbatch(self, spec: JobSpec, script: str, *words: str) -> str:
        options = slurm_options(spec)
        given = {name for name in SBATCH_OPTIONS if getattr(options, name) is not None} | set(options.extra)
        argv = ["sbatch", *words, export_option(options.inherit_environment, self.secrets)]
        return self.call(argv, stdin=script, env=job_environment(os.environ, given))

    def _id_in(self, answer: str, spec: JobSpec) -> str:
        """Return the id that sbatch printed: the line that is one, and by which the controller knows this job."""
        name = label(spec.name)
        found = [match[1] for line in answer.splitlines() if (match := _ID.match(line.strip()))]
        known = {job: self._name_of(job) for job in dict.fromkeys(found)}
        ours = [job for job, its in known.items() if its == name] or [job for job, its in known.items() if its == ""]
        if ours:
            return ours[-1]
        if len(found) == 1 and known[found[0]] is None:
            # A controller that dies right after it answered may have lost the job (seen with 22.05).
            raise UserError(f"sbatch gave the id {found[0]}, but the controller does not know it: submit again")
        listed = self.queue.ask("squeue", "--noheader", "--me", f"--name={name}", "--Format=ArrayJobID:|,STDOUT:|")
        rows = [line.split("|") for line in listed.splitlines() if "|" in line]
        output = str(spec.run_dir)
        named = sorted(
            {int(r[0]) for r in rows if r[0].strip().isdigit() and Path(r[1].strip()).parent == Path(output)}
        )
        if named:
            return str(named[-1])
        raise UserError(
            f"sbatch took job {name!r}, but its answer has no id that the controller knows ({answer.strip()!r}). Do "
            f"not submit again: it may be queued. `squeue --me --name={name}` shows it, `scancel` with its id ends it"
        )

    def _name_of(self, job: str) -> str | None:
        """Return the name of a job, "" where it is not told, or None where the controller knows no such job."""
        try:
            told = self.queue.ask("scontrol", "-o", "show", "job", job)
        except CallError as error:
            if "Invalid job id" in error.text:
                return None
            return ""  # the controller is busy: no reason to doubt it
        except UserError:
            return ""
        found = re.search(r"\bJobName=(\S*)", told)
        return found[1] if found else ""

    def _nodes_are_away(self, spec: JobSpec) -> bool:
        """Return whether a node that the job may use is down, drained or failing."""
        partition = slurm_options(spec).partition
        only = [f"--partition={partition}"] if partition else []
        return bool(self.queue.ask("sinfo", "--noheader", "--list-reasons", *only, "--format=%N").strip())

    def _explain(self, spec: JobSpec, error: CallError) -> str:
        text = re.sub("sbatch: error: |allocation failure: ", "", error.text).replace("\n", "; ")
        partition = slurm_options(spec).partition
        if "partition" in text and partition is not None:
            known = sorted(set(self.queue.ask("sinfo", "--noheader", "--format=%R").split()))
            if missing := [name for name in partition.split(",") if name not in known]:
                return f"Slurm has no partition {missing[0]!r} (it has: {', '.join(known)}); nothing was submitted"
        if _NO_SUCH_NODES in text:
            text += f": {spec.nodes} nodes with the `options` of the cluster file; `sinfo -N -l` shows what there is"
        return f"Slurm refused job {spec.name!r}: {text}; nothing was submitted"
