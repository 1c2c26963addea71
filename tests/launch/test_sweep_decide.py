"""What a sweep decides: whatever is seen has an answer, and a world that follows it comes to the same end anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.cluster.job import JobState, JobStatus
from launch.sweep.execute.decide import ENDS, MOST_STARTS, Decision, Limits, Seen, Then, decide, stand
from trainer.contract.exit_codes import EXIT_DIVERGED, EXIT_FENCED
from trainer.contract.run_dir import Status

BAD = (Status.FAILED, Status.DIVERGED)
NAMES = [f"c{i}" for i in range(5)]
jobs = st.builds(
    JobStatus, st.sampled_from(JobState), st.sampled_from([None, 0, 1, 75, EXIT_DIVERGED, EXIT_FENCED, -9])
)


@st.composite
def looks(draw: st.DrawFn) -> list[Seen]:
    """Any cells, also such as no backend would show."""
    return [
        Seen(
            name,
            draw(st.none() | st.sampled_from(Status)),
            draw(st.none() | jobs),
            draw(st.integers(0, MOST_STARTS + 1)),
            draw(st.none() | st.sampled_from([*BAD, Status.PENDING])),
            collected=draw(st.booleans()),
            trunk=draw(st.none() | st.sampled_from([*NAMES, "not there"])),
            parted=draw(st.booleans()),
        )
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True))
    ]


limits_of = st.builds(Limits, st.booleans(), st.booleans())


@given(looks(), limits_of)
def test_any_look_has_an_answer_that_keeps_the_rules(seen: list[Seen], limits: Limits) -> None:
    decision = decide(seen, limits)
    before, after = {c.cell: c for c in seen}, {c.cell: c for c in decision.cells}
    assert decision == decide(seen, limits) and before.keys() == after.keys()
    if decision.then is Then.REFUSE:
        assert not limits.queued and not (decision.write or decision.collect or decision.start)
        return
    stands = stand(decision.cells, limits)
    everyone = stands.done + stands.busy + stands.failed + stands.diverged + stands.due
    assert sorted(everyone) == sorted(before), "each cell stands in one way"
    for cell in map(after.__getitem__, decision.start):
        assert not cell.open and cell.status is not Status.DONE, "nothing twice, and nothing that may still run"
        assert cell.status not in BAD or (limits.retry and not cell.starts), "a bad end is started again when asked for"
        assert cell.starts < limits.most_starts
        assert cell.trunk is None or cell.parted or after[cell.trunk].status in (Status.DONE, Status.DIVERGED)
        assert cell.trunk is None or cell.parted or cell.trunk not in decision.start
    going = decision.start or any(c.open for c in decision.cells)
    assert (decision.then is Then.FINISH) is not bool(going)
    assert (decision.then is Then.WAIT) is (bool(going) and not limits.queued)
    assert all(after[cell].status in ENDS for cell in decision.collect)


@given(looks(), limits_of)
def test_what_was_carried_out_is_not_decided_again(seen: list[Seen], limits: Limits) -> None:
    first = decide(seen, limits)
    done = [replace(c, collected=c.collected or c.cell in first.collect) for c in first.cells]
    again = decide(done, limits)
    assert not (again.write or again.collect)
    if first.then is Then.REFUSE:
        assert again.then is Then.REFUSE


@given(looks(), st.booleans())
def test_a_state_that_nobody_knows_changes_nothing(seen: list[Seen], retry: bool) -> None:
    away = [replace(c, job=JobStatus(JobState.UNKNOWN), unsaid=None) for c in seen]
    decision = decide(away, Limits(queued=True, retry=retry))
    assert not (decision.write or decision.collect or decision.start)
    assert decision.then is (Then.LEAVE if seen else Then.FINISH)


@dataclass
class Job:
    """A job that runs for a number of looks, and how it ends: the word of its ranks, and what its backend says."""

    looks: int
    word: Status | None
    says: JobStatus
    damaged: bool = False


ENDINGS = st.sampled_from(
    [
        (Status.DONE, JobStatus(JobState.DONE, 0), False),
        (Status.DONE, JobStatus(JobState.DONE, 0), True),
        (Status.DONE, JobStatus(JobState.FAILED, 1), False),  # a rank crashed at its exit
        (Status.DIVERGED, JobStatus(JobState.FAILED, EXIT_DIVERGED), False),
        (None, JobStatus(JobState.FAILED, EXIT_DIVERGED), False),
        (Status.FAILED, JobStatus(JobState.FAILED, 1), False),
        (None, JobStatus(JobState.FAILED, -9), False),
        (None, JobStatus(JobState.FAILED, EXIT_FENCED), False),
        (Status.PREEMPTED, JobStatus(JobState.PREEMPTED, 75), False),
        (None, JobStatus(JobState.CANCELLED), False),
    ]
)
SCRIPTS = st.lists(st.builds(lambda looks, end: Job(looks, *end), st.integers(0, 3), ENDINGS), max_size=5)


@dataclass
class World:
    """Cells whose jobs end as a script says, then well. What a process knows is in `starts` and `collected`."""

    scripts: dict[str, list[Job]]
    trunks: dict[str, str]
    status: dict[str, Status | None] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    total: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    collected: set[str] = field(default_factory=set)

    def look(self) -> list[Seen]:
        return [self._seen(name) for name in self.scripts]

    def _seen(self, name: str) -> Seen:
        job, status = self.jobs.get(name), self.status.get(name)
        if job is not None and job.looks > 0:
            says = JobStatus(JobState.UNKNOWN if job.looks == 2 else JobState.RUNNING)
        elif job is not None:
            says = job.says
        if job is None or (name not in self.starts and status in (Status.DONE, Status.DIVERGED)):
            says = None  # type: ignore[assignment]
        unsaid = None
        if says is not None and says.state is JobState.FAILED and says.exit_code != EXIT_FENCED and status not in ENDS:
            unsaid = Status.DIVERGED if says.exit_code == EXIT_DIVERGED else Status.FAILED
        told = name in self.collected
        if status is Status.DONE and not told and name in self.damaged:
            unsaid = Status.PENDING
        return Seen(name, status, says, self.starts.get(name, 0), unsaid, told, self.trunks.get(name))

    def follow(self, decision: Decision) -> None:
        by_id = {c.cell: c for c in decision.cells}
        for name in (c.cell for c in decision.write):
            self.status[name] = by_id[name].status
        for name in decision.collect:
            assert name not in self.collected and name not in self.damaged.intersection(decision.collect)
            self.collected.add(name)
        for name in decision.start:
            number = self.total.get(name, 0)
            script = self.scripts[name]
            job = script[number] if number < len(script) else Job(1, Status.DONE, JobStatus(JobState.DONE, 0))
            self.jobs[name] = replace(job)
            self.total[name], self.starts[name] = number + 1, self.starts.get(name, 0) + 1
            self.status[name] = Status.PENDING
            self.damaged.discard(name)
            self.collected.discard(name)
        self.pass_time()

    def pass_time(self) -> None:
        for name, job in self.jobs.items():
            job.looks -= 1
            if job.looks == 0 or (job.looks == -1 and self.status[name] is Status.PENDING):
                self.status[name] = job.word or Status.RUNNING
                if job.damaged:
                    self.damaged.add(name)

    def forget(self) -> None:
        """Begin a new process."""
        self.starts, self.collected = {}, set()


def worlds() -> st.SearchStrategy[tuple[dict[str, list[Job]], dict[str, str]]]:
    scripts = st.fixed_dictionaries(dict.fromkeys(NAMES, SCRIPTS))
    return st.tuples(scripts, st.dictionaries(st.sampled_from(NAMES[1:]), st.just(NAMES[0])))


def run(world: World, limits: Limits) -> Decision:
    """Follow what is decided until this process has no more to do. It has, within what its scripts can ask for."""
    for _ in range(100):
        decision = decide(world.look(), limits)
        assert decision.then is not Then.REFUSE, "its own jobs are no reason"
        world.follow(decision)
        if decision.then is not Then.WAIT:
            return decision
    raise AssertionError(f"goes on for ever: {world.look()}")


def again_and_again(world: World, queued: bool) -> Decision:
    """Run a sweep until a call starts nothing and nothing runs: a queue's jobs end between two calls."""
    for _ in range(20):
        decision = run(world, Limits(queued))
        assert all(count <= MOST_STARTS for count in world.starts.values())
        if decision.then is Then.FINISH and not world.starts:
            return decision
        for _ in range(4 * queued):
            world.pass_time()
        world.forget()
    raise AssertionError(f"comes to no end: {world.look()}")


@settings(deadline=None)
@given(worlds())
def test_a_queue_and_a_driven_sweep_come_to_the_same_end(made: tuple[dict[str, list[Job]], dict[str, str]]) -> None:
    ends = {}
    for queued in (False, True):
        world = World(*made)
        decision = again_and_again(world, queued)
        ends[queued] = (world.status, world.total)
        stands = stand(decision.cells, Limits(queued))
        assert {*stands.failed, *stands.diverged, *stands.done, *stands.waiting} == set(NAMES)
        assert world.collected == {name for name in NAMES if world.status.get(name) in ENDS}
    assert ends[False] == ends[True]


@pytest.mark.parametrize(
    ("seen", "limits", "expected"),
    [
        (Seen("a"), Limits(False), ("a",)),
        (Seen("a", Status.DONE), Limits(False, retry=True), ()),
        (Seen("a", Status.FAILED), Limits(True), ()),
        (Seen("a", Status.FAILED), Limits(True, retry=True), ("a",)),
        (Seen("a", Status.FAILED, starts=1), Limits(False, retry=True), ()),
        (Seen("a", Status.RUNNING, JobStatus(JobState.CANCELLED)), Limits(True), ("a",)),
        (Seen("a", Status.RUNNING, JobStatus(JobState.CANCELLED), starts=1), Limits(False), ()),
        (Seen("a", Status.PREEMPTED, JobStatus(JobState.PREEMPTED), starts=2), Limits(False), ("a",)),
        (Seen("a", Status.PREEMPTED, JobStatus(JobState.PREEMPTED), starts=3), Limits(False), ()),
        (Seen("a", Status.RUNNING, JobStatus(JobState.FAILED, -9), unsaid=Status.FAILED), Limits(True), ()),
        (Seen("a", Status.FAILED, JobStatus(JobState.PREEMPTED), starts=1), Limits(False), ()),
        (Seen("a", Status.DONE, unsaid=Status.PENDING), Limits(True), ("a",)),
        (Seen("a", Status.DONE, JobStatus(JobState.DONE), starts=1, unsaid=Status.PENDING), Limits(False), ("a",)),
        (Seen("a", trunk="b"), Limits(True), ()),
        (Seen("a", trunk="b", parted=True), Limits(True), ("a",)),
    ],
)  # fmt: skip
def test_what_is_started(seen: Seen, limits: Limits, expected: tuple[str, ...]) -> None:
    assert decide([seen], limits).start == expected


def test_a_trunk_that_is_tried_again_is_waited_for() -> None:
    cells = [Seen("trunk", Status.DIVERGED), Seen("branch", trunk="trunk")]
    assert decide(cells, Limits(True)).start == ("branch",)
    assert decide(cells, Limits(True, retry=True)).start == ("trunk",)
