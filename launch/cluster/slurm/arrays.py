"""The ids of an array's tasks, and the arrays of a sweep that is too long for one."""

from __future__ import annotations

from launch.cluster.job import JobSpec


def shard_size(tasks: int, arrays: int) -> int:
    """Return how many tasks each of several arrays has, the last one perhaps fewer."""
    return -(-tasks // arrays)


def task_ids(spec: JobSpec, job: str) -> list[str]:
    """Return the id of each task, such as 123_4. `job` is an array's id, or those of several with commas between."""
    ids = job.split(",")
    size = shard_size(len(spec.array), len(ids))
    return [f"{ids[index // size]}_{index % size}" for index in range(len(spec.array))]


def array_of(job: str) -> str:
    """Return the id of a task's array; "" for a job that is none."""
    return job.rpartition("_")[0]
