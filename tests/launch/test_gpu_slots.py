"""Several jobs on one GPU of this machine. GPUs are names in a variable here; the processes are real."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from launch.cluster.config import ClusterConfig, open_backend
from launch.cluster.job import JobSpec, JobState
from launch.cluster.local.backend import LocalBackend
from launch.cluster.local.gpus import LocalGpus
from launch.cluster.local.mps import PROGRAM
from launch.planner import device_rate
from launch.planner.device_rate import gpu_of_this_machine, rates_file
from launch.planner.expected import seconds_on_gpus
from launch.planner.rates import RATES
from launch.sweep.execute.place import refuse_crowded_gpus
from trainer.config.load import run_from_values
from trainer.contract.errors import UserError
from trainer.parallel import matrix_rate
from trainer.parallel.start import keep_to_slot
from trainer.plan.gpus import GIB, SLOTS_VARIABLE, find_gpu, slot_bytes
from trainer.plan.plan import make_plan

TWO = {**os.environ, "CUDA_VISIBLE_DEVICES": "4,5"}
SHOW = """
import os, sys, time
print(*(os.environ.get(name, "-") for name in ("CUDA_VISIBLE_DEVICES", "ESCALA_SLOTS_PER_GPU")), flush=True)
print("pipe", os.path.exists(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "-") + "/control"), flush=True)
print("preloaded", "touched" in sys.modules, flush=True)
end = time.time() + 60
while len(sys.argv) > 1 and not os.path.exists(sys.argv[1]) and time.time() < end:
    time.sleep(0.02)
"""


def job(tmp_path: Path, name: str, *arguments: str, ranks: int = 1) -> JobSpec:
    program = tmp_path / "show.py"
    program.write_text(SHOW)
    return JobSpec(name, (str(program), *arguments), tmp_path / name, ranks_per_node=ranks)


def finish(backend: LocalBackend, *jobs: str) -> list[str]:
    """Wait for jobs, and return the lines of each."""
    for _ in range(600):
        states = [status.state for status in backend.status(jobs).values()]
        if all(state.final for state in states):
            assert states == [JobState.DONE] * len(jobs)
            return ["; ".join(backend.logs(one, rank=0)) for one in jobs]
        backend.wait(0.1)
    raise AssertionError(states)


def test_jobs_fill_the_shares_of_gpus_and_no_more(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with LocalBackend(4, TWO, preload=(), slots_per_gpu=2, log=tmp_path / "ranks.log") as backend:
        jobs = [backend.submit(job(tmp_path, f"job{n}", str(go))) for n in range(5)]
        running = [j for j in jobs if backend.status([j])[j].state is JobState.RUNNING]
        assert len(running) == 4
        assert Counter(device for j in running for device in backend.jobs[j].devices) == {"4": 2, "5": 2}
        go.touch()
        lines = finish(backend, *jobs)
    assert [line.split(";")[0] for line in lines[:4]] == ["4 2", "5 2", "4 2", "5 2"]
    assert lines[4].split(";")[0] in ("4 2", "5 2")


def test_ranks_of_one_job_have_a_gpu_each() -> None:
    gpus = LocalGpus(TWO, 4, 2)
    assert gpus.choose(["4"], 2) == ("4", "5") and gpus.choose(["4", "4"], 2) is None
    assert gpus.choose(["4", "4", "5"], 1) == ("5",)
    assert LocalGpus({"CUDA_VISIBLE_DEVICES": ""}, 4, 1).choose([], 3) == ()
    with pytest.raises(UserError, match="job 'x' has 3 ranks, each on a GPU of its own, and this machine has 2"):
        gpus.check("x", 3)


@pytest.mark.parametrize(
    ("devices", "slots", "message"),
    [
        ("4,5", 5, r"5 ranks at a time, but this machine has 2 GPUs: 2 ranks share one \(options.slots_per_gpu\)"),
        ("", 2, "options.slots_per_gpu is 2, but this machine has no GPU: leave it out"),
    ],
)
def test_slots_that_have_no_place_are_refused(devices: str, slots: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LocalBackend(slots, {"CUDA_VISIBLE_DEVICES": devices}, slots_per_gpu=2)


def test_the_kind_of_a_shared_gpu_must_be_known() -> None:
    with pytest.raises(UserError, match=r"options\.slots_per_gpu is 4: say in `gpu` which GPU it is"):
        open_backend(ClusterConfig(options={"slots_per_gpu": 4}))


DAEMON = """#!/bin/sh
cd "$CUDA_MPS_PIPE_DIRECTORY" || exit 1
if [ "$1" = -f ]; then touch control; while [ ! -e quit ]; do sleep 0.05; done; else cat > quit; fi
"""


def with_daemon(directory: Path, text: str) -> dict[str, str]:
    program = directory / PROGRAM
    program.write_text(text)
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return {**TWO, "PATH": f"{directory}:{os.environ['PATH']}"}


def test_mps_runs_as_long_as_the_ranks_of_shared_gpus(tmp_path: Path) -> None:
    environment = with_daemon(tmp_path, DAEMON)
    with LocalBackend(4, environment, preload=(), slots_per_gpu=2, log=tmp_path / "ranks.log") as backend:
        (lines,) = finish(backend, backend.submit(job(tmp_path, "a")))
        mps = backend.ranks.gpus.mps
        assert mps is not None and mps.daemon is not None and mps.directory is not None
        daemon = mps.daemon
    assert "pipe True" in lines
    assert daemon.poll() == 0 and not mps.directory.exists(), "it was asked to quit, not killed"
    with LocalBackend(2, environment, preload=(), log=tmp_path / "whole.log") as whole:
        assert "pipe False" in finish(whole, whole.submit(job(tmp_path, "b")))[0], "whole GPUs need none"


def test_without_mps_ranks_take_turns(tmp_path: Path) -> None:
    environment, log = with_daemon(tmp_path, "#!/bin/sh\nexit 1\n"), tmp_path / "ranks.log"
    with LocalBackend(4, environment, preload=(), slots_per_gpu=2, log=log) as backend:
        assert "pipe False" in finish(backend, backend.submit(job(tmp_path, "a")))[0]
    assert "ranks take turns on a GPU" in log.read_text()


@pytest.mark.parametrize("touched", [False, True])
def test_ranks_are_forked_warm_unless_the_server_has_touched_cuda(tmp_path: Path, touched: bool) -> None:
    """A fork cannot use what its parent has initialised, so a rank becomes a new process then."""
    (tmp_path / "touched.py").write_text(f"import __main__\n__main__.touches_cuda = lambda: {touched}\n")
    environment = {**TWO, "PYTHONPATH": str(tmp_path)}
    log = tmp_path / "ranks.log"
    with LocalBackend(2, environment, preload=("touched",), slots_per_gpu=2, log=log) as backend:
        (lines,) = finish(backend, backend.submit(job(tmp_path, "a")))
    assert f"preloaded {not touched}" in lines


def test_a_rank_takes_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[Any] = []
    memory = SimpleNamespace(total_memory=80 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: memory)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: shares.append(given))
    device = torch.device("cuda", 0)
    keep_to_slot(device)
    assert not shares
    monkeypatch.setenv(SLOTS_VARIABLE, "4")
    keep_to_slot(device)
    ((share, where),) = shares
    assert where == device and share * 80 == pytest.approx(0.98 * 80 / 4 - 2)


def test_cells_that_do_not_fit_into_a_share_are_refused_with_the_numbers() -> None:
    def cell(name: str, gib: float) -> Any:
        return SimpleNamespace(id=name, plan=SimpleNamespace(memory_bytes={"total": int(gib * GIB)}))

    opened: Any = SimpleNamespace(cells=[cell("small", 1), cell("large", 20)])
    cluster = ClusterConfig(gpu="H100-SXM", options={"slots_per_gpu": 4})
    assert slot_bytes(find_gpu("H100-SXM").memory, 4) / GIB == pytest.approx(17.6)
    planned, way_out = r"large is planned to take 20\.0 GiB", r"options\.slots_per_gpu to 3"
    with pytest.raises(
        UserError, match=rf"{planned}, and 4 slots of a H100-SXM .* have 17\.6 GiB each .*: set {way_out}"
    ):
        refuse_crowded_gpus(opened, cluster)
    refuse_crowded_gpus(opened, ClusterConfig(gpu="H100-SXM", options={"slots_per_gpu": 2}))
    refuse_crowded_gpus(opened, ClusterConfig(gpu="H100-SXM"))


SMI = """#!/bin/sh
echo "NVIDIA H100 80GB HBM3"
"""


def test_the_rate_of_a_gpu_is_measured_once_and_kept_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)}
    counted = tmp_path / "counted"
    program = (
        f"open({str(counted)!r}, 'a').write('x'); print('{{\"name\": \"NVIDIA H100 80GB HBM3\", \"flops\": 5e14}}')"
    )
    monkeypatch.setattr(device_rate, "MEASURE", ("-c", program))
    for _ in range(2):
        found = gpu_of_this_machine(None, environment)
        assert found is not None and found.name == "H100-SXM" and found.flops == pytest.approx(5e14 / RATES.hopper)
    assert counted.read_text() == "x"
    assert json.loads(rates_file(environment).read_text()) == {"NVIDIA H100 80GB HBM3": 5e14}
    assert gpu_of_this_machine("L40S", {"PATH": "/none", "XDG_CACHE_HOME": "/none"}) == find_gpu("L40S")
    assert gpu_of_this_machine(None, {"PATH": "/none"}) is None


@pytest.mark.parametrize("program", ['print(\'{"name": "NVIDIA T4", "flops": 6e13}\')', "raise SystemExit(1)"])
def test_a_rate_of_another_device_is_not_kept(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)}
    monkeypatch.setattr(device_rate, "MEASURE", ("-c", program))
    assert gpu_of_this_machine(None, environment) == find_gpu("H100-SXM")
    assert not rates_file(environment).exists()


def test_without_a_gpu_no_rate_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix_rate.main() == 1 and capsys.readouterr().out == ""


def test_cells_that_share_a_gpu_take_turns_with_their_kernels() -> None:
    values = {"model": {"size": "10M", "vocab_size": 1024, "context_length": 512}, "data": {}, "steps": 100,
              "batch": {"tokens_per_step": 16384}}  # fmt: skip
    config = run_from_values(values, "a test")
    plan, gpu = make_plan(config, world=1, gpu=True), find_gpu("H100-SXM")
    alone, shared = (seconds_on_gpus(config, plan, gpu, ranks=1, sharing=n) for n in (1, 4))
    fast = seconds_on_gpus(config, plan, replace(gpu, flops=2 * gpu.flops), ranks=1, sharing=4)
    assert alone <= shared <= 4 * alone and fast < shared
