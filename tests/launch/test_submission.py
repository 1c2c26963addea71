"""Clusters, submissions and their records, without starting anything."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from pathlib import Path

import pytest

from launch.cluster import attached, reachable, registry
from launch.cluster.config import lasting_name, load_cluster, open_backend
from launch.cluster.job import JobIdentity, JobSpec, JobState, JobStatus, Task
from launch.cluster.overview import overview
from launch.run.submission import check_free, jobs_before, prepare, write_config
from tests.launch.test_cli import escala
from trainer.config.load import load_run
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "run" / "tiny.yaml"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "configs" / "cluster").glob("*.yaml")))
def test_every_cluster_file_renders(name: str, tmp_path: Path) -> None:
    wanted = prepare(TINY, (), name, tmp_path)
    text = open_backend(wanted.cluster).render(wanted.spec)
    assert str(tmp_path / "tiny") in text
    assert not list(tmp_path.iterdir()), "rendering writes nothing"


def cluster(tmp_path: Path, text: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backend: slrum\n", "'backend'.*given: 'slrum'"),
        ("backend: slurm\nnode: 2\n", r"unknown key 'node' \(did you mean 'nodes'\?\)"),
        ("nodes: 0\n", "'nodes'.*greater than 0"),
        ("backend: [\n", "line 2: not valid YAML"),
        ("- a\n", "expected a mapping"),
        ("!!python/object/apply:os.system ['touch x']\n", "not valid YAML"),
    ],
)
def test_a_bad_cluster_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_cluster(cluster(tmp_path, text))


def test_a_home_is_opened_where_nodes_have_the_homes_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for kind, home in (("slurm", "/home/me"), ("local", "/home/me"), ("ssh", "~")):
        found = load_cluster(cluster(tmp_path, f"backend: {kind}\npython: ~/venv/bin/python\ndirectory: ~/work\n"))
        assert (found.interpreter, str(found.work_directory)) == (f"{home}/venv/bin/python", f"{home}/work")
    for text, message in (
        ("backend: slurm\npython: ~nobody-here/p\n", "there is no such home"),
        ("backend: kubernetes\npython: ~/p\n", "a container has no home of yours"),
    ):
        with pytest.raises(UserError, match=message):
            _ = load_cluster(cluster(tmp_path, text)).interpreter


def test_an_unknown_cluster_names_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"there is no cluster 'slrm' in .*did you mean 'slurm'\?"):
        load_cluster("slrm")


def test_degrees_must_multiply_to_the_world(tmp_path: Path) -> None:
    path = cluster(tmp_path, "nodes: 1\nranks_per_node: 3\n")
    with pytest.raises(UserError, match="tensor 2 = 2 does not divide the world of 3 ranks"):
        prepare(TINY, ("parallel.tensor=2",), path, tmp_path)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", "/etc/x", "''", "-x", "a" * 300, '"a\\nb"'])
def test_a_name_stays_below_the_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="'name': a name"):
        prepare(TINY, (f"name={name}",), "local", tmp_path)


def test_a_directory_of_another_run_is_left_alone(tmp_path: Path) -> None:
    wanted = prepare(TINY, ("model.vocab_size=512",), "local", tmp_path)
    write_config(wanted, wanted.config)
    write_config(wanted, wanted.config)
    other = prepare(TINY, ("model.vocab_size=512", "seed=1"), "local", tmp_path)
    with pytest.raises(UserError, match=r"holds another run \(seed: \d+ there, 1 here\): .*--set name=tiny-2"):
        write_config(other, other.config)
    (tmp_path / "tiny" / "status").write_text("done\n")
    with pytest.raises(UserError, match="this run is done"):
        write_config(wanted, wanted.config)


def test_records_are_found_by_id_name_and_directory(tmp_path: Path) -> None:
    tasks = tuple(Task(name, ("-m", "x"), tmp_path / "sweep" / name) for name in ("a", "b"))
    registry.record(JobSpec("sweep", (), tmp_path / "sweep", array=tasks), "7", cluster="slurm", backend="slurm")
    registry.record(JobSpec("run", ("-m", "x"), tmp_path / "run"), "8", cluster="slurm", backend="slurm")
    assert {row.job for row in registry.find(tmp_path)} == {"7_0", "7_1", "8"}
    assert registry.find_one(tmp_path, "7_1").name == "b"
    assert registry.find_one(tmp_path, "run").job == "8"
    assert registry.find_one(tmp_path, str(tmp_path / "run")).job == "8"
    with pytest.raises(UserError, match=r"no submitted run 'rnu' .*did you mean 'run'"):
        registry.find_one(tmp_path, "rnu")


def test_a_sweep_is_meant_by_its_name_and_by_the_id_that_was_printed(tmp_path: Path) -> None:
    places = [tmp_path / "ladder" / "cells" / name for name in ("a", "b")]
    tasks = tuple(Task(place.name, ("-m", "x"), place) for place in places)
    spec = JobSpec("ladder", (), tmp_path / "ladder", array=tasks)
    registry.record(spec, "70", cluster="slurm", backend="slurm")
    for word in ("ladder", "70", str(tmp_path / "ladder"), "70_0,70_1"):
        assert {row.name for row in registry.find_all(tmp_path, word)} == {"a", "b"}, word
    with pytest.raises(UserError, match="'ladder' is a sweep of 2 runs: name one of them, 70_"):
        registry.find_one(tmp_path, "ladder")
    with pytest.raises(UserError, match=r"no submitted run 'lader' .*did you mean 'ladder'"):
        registry.find_all(tmp_path, "lader")


def test_two_runs_of_one_directory_may_have_the_same_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newer one is what the id means now, and each is asked about by its own identity."""
    (tmp_path / "bin").mkdir()
    listed = f"12|RUNNING|0|None|n1|ada|new|{tmp_path}/runs/new/slurm-12.out|\\n"
    for name, text in (("squeue", listed), ("scontrol", "ClusterName = lab\\n"), ("sacct", "")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nprintf "{text}"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    runs, settings = tmp_path / "runs", {"backend": "slurm"}

    def submit(name: str, when: str, site: str = "lab") -> None:
        monkeypatch.setattr(registry, "utc_now", lambda: when)
        identity = JobIdentity(site, "ada", name, str(runs / name))
        spec = JobSpec(name, ("-m", "x"), runs / name)
        registry.record(spec, "12", cluster="lab", backend="slurm", identity=identity, settings=settings)

    submit("old", "2026-01-01T00:00:00+00:00")
    submit("new", "2026-02-01T00:00:00+00:00")
    states = {row.submitted.name: row.status for row in overview(runs)}
    assert states["new"].state is JobState.RUNNING
    assert states["old"].state is JobState.CANCELLED and "now that of new" in states["old"].reason
    assert registry.find_one(runs, "12").name == "new" and registry.find_one(runs, "old").job == "12"
    submit("there", "2026-03-01T00:00:00+00:00", site="other")
    with pytest.raises(UserError, match="'12' is an id on the clusters 'lab', 'other': give a name"):
        registry.find_all(runs, "12")
    assert {row.status.state for row in overview(runs, ("there",))} == {JobState.UNKNOWN}


SLURM_AWAY = "#!/bin/sh\necho 'Unable to contact slurm controller (connect failure)' >&2; exit 1\n"


def test_one_bad_record_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty record, a cluster file that is gone, a controller that is away: each says so in its row."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("squeue", "scontrol", "sacct"):
        (programs / name).write_text(SLURM_AWAY)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    runs = tmp_path / "runs"

    def submit(name: str, job: str, **more: object) -> None:
        registry.record(JobSpec(name, ("-m", "x"), runs / name), job, **{"backend": "slurm", **more})  # type: ignore[arg-type]

    submit("gone", "1", cluster="no/such/file.yaml")
    submit("away", "2", cluster="lab", settings={"backend": "slurm"})
    submit("done", "3", cluster="lab", settings={"backend": "slurm"})
    (runs / "done" / "status").write_text("done\n")
    submit("here", attached.job_id(), cluster="local", backend="local")
    (runs / "here" / "status").write_text("running\n")
    (runs / "here" / "metrics.jsonl").write_bytes(b"\0" * 50 + b"\n")
    submit("torn", "4", cluster="lab", settings={"backend": "slurm"})
    (runs / "torn" / "status").write_text("\0\0")
    (runs / "empty").mkdir()
    (runs / "empty" / "job.json").write_text("")
    rows = {row.submitted.name: row for row in overview(runs)}
    assert {name: row.status.state.value for name, row in rows.items()} == {
        "gone": "unknown",
        "away": "unknown",
        "done": "done",
        "here": "running",
        "empty": "unknown",
        "torn": "unknown",
    }
    assert "there is no cluster" in rows["gone"].status.reason
    assert "Unable to contact slurm controller" in rows["away"].status.reason
    assert "is not the record of a job" in rows["empty"].status.reason
    assert registry.find_one(runs, "here").backend == "local", "others are found beside it"
    assert [row.submitted.name for row in overview(runs, ("done",))] == ["done"]
    json.dumps([row.to_json() for row in rows.values()])


def test_a_run_that_is_queued_is_not_submitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = JobSpec("run", ("-m", "x"), tmp_path / "run")
    assert check_free(spec.run_dir) is None
    registry.record(spec, "5", cluster="lab", backend="slurm", settings={"backend": "slurm"})
    state = JobState.RUNNING
    monkeypatch.setattr(
        "launch.run.submission.statuses_of",
        lambda rows: {row.run_dir: JobStatus(state, reason="squeue failed") for row in rows},
    )
    with pytest.raises(UserError, match=r"run is running as slurm job 5: .*--replace ends it and starts again"):
        check_free(spec.run_dir)
    state = JobState.UNKNOWN
    with pytest.raises(UserError, match=r"whether run still runs as slurm job 5 is unknown \(squeue failed\)"):
        check_free(spec.run_dir)
    state = JobState.FAILED
    assert check_free(spec.run_dir) is not None


def test_a_run_waits_for_others_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = load_cluster(cluster(tmp_path, "backend: slurm\n"))
    for name, job in (("base", "5"), ("old", "4"), ("bad", "3")):
        registry.record(JobSpec(name, ("-m", "x"), tmp_path / name), job, cluster="lab", backend="slurm")
    states = {"base": JobState.RUNNING, "old": JobState.DONE, "bad": JobState.FAILED}
    monkeypatch.setattr(
        "launch.run.submission.statuses_of", lambda rows: {r.run_dir: JobStatus(states[r.name]) for r in rows}
    )
    assert jobs_before(tmp_path, ("base", "old"), where) == ("5",), "what is done is not waited for"
    with pytest.raises(UserError, match="--after bad: it is failed"):
        jobs_before(tmp_path, ("bad",), where)
    with pytest.raises(UserError, match="--after has no effect on local"):
        jobs_before(tmp_path, ("base",), load_cluster("local"))


def test_a_record_that_cannot_be_written_names_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry, "write_atomically", full)
    with pytest.raises(UserError, match=r"slurm job 5 is submitted, but .*No space left.*do not submit it again"):
        registry.record(JobSpec("run", ("-m", "x"), tmp_path), "5", cluster="lab", backend="slurm")


def test_clusters_say_whether_they_answer(tmp_path: Path) -> None:
    assert reachable.describe("local")["answers"] is True
    gone = reachable.describe(str(tmp_path / "gone.yaml"))
    assert gone["answers"] is False and "there is no cluster" in gone["said"]
    (tmp_path / "bin").mkdir()
    path = cluster(tmp_path, "backend: slurm\noptions: {partition: train}\n")
    for name, text in (("sinfo", "2 idle\\n1 down*\\n"), ("scontrol", "ClusterName = lab\\n")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nprintf "{text}"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    done = escala("clusters", path, "--json", path=str(tmp_path / "bin"))
    assert json.loads(done.stdout)[0]["said"] == "Slurm lab, partition train: 2 idle, 1 down*"
    alone = escala("clusters", path, path="/nowhere")
    assert alone.returncode == 0 and "no answer: sinfo is not installed" in alone.stdout


def test_a_relative_cluster_file_is_recorded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lasting_name("here/c.yaml") == str(tmp_path / "here" / "c.yaml") and lasting_name("slurm") == "slurm"


def test_an_attached_job_is_as_alive_as_its_process(tmp_path: Path) -> None:
    row = registry.record(JobSpec("run", ("-m", "x"), tmp_path), attached.job_id(), cluster="local", backend="local")[0]
    (tmp_path / "status").write_text("running\n")
    assert attached.status(row).state is JobState.RUNNING
    gone = f"{socket.gethostname()}:{os.getpid()}:1"
    row = registry.record(JobSpec("run", ("-m", "x"), tmp_path), gone, cluster="local", backend="local")[0]
    assert attached.status(row).state is JobState.FAILED
    assert "is gone" in attached.status(row).reason
    RunDir(tmp_path).write_status(Status.FAILED)
    RunDir(tmp_path).record_event("failed", error="connect [/../pair.cc:5]")
    assert attached.status(row).reason == "connect [/../pair.cc:5]"
    with pytest.raises(UserError, match="does not run"):
        attached.cancel(row)
    with pytest.raises(UserError, match="was started on elsewhere: ask there"):
        attached.owner("elsewhere:1:1")


def test_a_thousand_jobs_cost_one_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub counts how often squeue is asked."""
    stub = tmp_path / "bin" / "squeue"
    stub.parent.mkdir()
    lines = "\n".join(f"{i}|RUNNING|0|None|n1|" for i in range(1000))
    (tmp_path / "answer").write_text(lines + "\n")
    stub.write_text(f'#!/bin/sh\necho x >>"{tmp_path}/asked"\ncat "{tmp_path}/answer"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    for i in range(1000):
        registry.record(JobSpec(f"r{i}", ("-m", "x"), tmp_path / f"r{i}"), str(i), cluster="slurm", backend="slurm")
    rows = overview(tmp_path)
    assert len(rows) == 1000 and {row.status.state for row in rows} == {JobState.RUNNING}
    assert (tmp_path / "asked").read_text() == "x\n"
    assert json.dumps([row.to_json() for row in rows])


def test_the_check_and_the_claim_of_a_run_are_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two waits behind its check until the other has checked too, which only a check without a lock allows."""
    from launch.run import submission

    barrier, real, ends = threading.Barrier(2), submission.refuse_other_run, []
    config = load_run(ROOT / "configs" / "run" / "tiny.yaml")

    def check(run_dir: RunDir, mine: RunConfig, *, gpu: bool) -> None:
        real(run_dir, mine, gpu=gpu)
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(1)

    def start(seed: int) -> None:
        try:
            submission.claim(RunDir(tmp_path / "run"), config.model_copy(update={"seed": seed}), gpu=False)
            ends.append((seed, ""))
        except UserError as error:
            ends.append((seed, str(error)))

    monkeypatch.setattr(submission, "refuse_other_run", check)
    threads = [threading.Thread(target=start, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [seed for seed, error in ends if not error]
    (refused,) = [error for _, error in ends if error]
    assert "holds another run" in refused and load_run(tmp_path / "run" / "config.yaml").seed == winner
