"""What the states of an array's members say of the whole."""

from __future__ import annotations

import pytest

from launch.cluster.job import JobState, JobStatus, array_status


@pytest.mark.parametrize("state", JobState)
def test_an_array_is_done_only_when_all_its_members_are(state: JobState) -> None:
    whole = array_status([JobStatus(JobState.DONE, 0), JobStatus(state, None)])
    assert (whole.state, whole.reason) == (state, f"{1 + (state is JobState.DONE)} of 2 done")
