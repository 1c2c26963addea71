"""What a run costs: the price comes from the cluster file, the energy from the machine's own counters."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from launch.cluster.config import ClusterConfig
from trainer.contract.errors import UserError
from trainer.engine.cost import open_costs
from trainer.observe import energy
from trainer.observe.costs import Costs, price_from_environment
from trainer.observe.energy import cpu_counter, gpu_counter, since_now


def plant(root: Path, name: str, **values: int) -> Path:
    place = root / name
    place.mkdir(parents=True, exist_ok=True)
    for key, value in values.items():
        (place / key).write_text(f"{value}\n")
    return place


def test_the_price_of_the_cluster_file_reaches_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ClusterConfig().job("x", (), tmp_path).environment == {}
    environment = ClusterConfig(gpu_price=2.5, interface="ib0").job("x", (), tmp_path).environment
    assert environment == {"ESCALA_GPU_PRICE": "2.5", "ESCALA_INTERFACE": "ib0"}
    monkeypatch.setenv("ESCALA_GPU_PRICE", environment["ESCALA_GPU_PRICE"])
    costs = open_costs(torch.device("cpu"), world=3)
    assert costs.after(3600.0)["core_seconds"] == 3 * 3600 * torch.get_num_threads()
    assert costs.after(3600.0)["cost"] == 3 * 2.5 * torch.get_num_threads()
    monkeypatch.setenv("ESCALA_GPU_PRICE", "cheap")
    with pytest.raises(UserError, match="'cheap', which is no number"):
        price_from_environment()


def test_rapl_counts_all_sockets_over_turns_of_their_counters(tmp_path: Path) -> None:
    first = plant(tmp_path, "intel-rapl:0", energy_uj=5_000_000, max_energy_range_uj=10_000_000)
    plant(tmp_path, "intel-rapl:1", energy_uj=1_000_000, max_energy_range_uj=10_000_000)
    plant(tmp_path, "intel-rapl:0:0", energy_uj=3_000_000, max_energy_range_uj=10_000_000)  # the cores of socket 0
    joules = since_now(cpu_counter(tmp_path), times=2)
    assert joules() == 0.0
    plant(tmp_path, "intel-rapl:0", energy_uj=9_000_000)
    assert joules() == 8.0
    plant(tmp_path, "intel-rapl:0", energy_uj=2_000_000)
    assert joules() == 14.0, "4 J to the first reading, 3 J over the turn, on each of 2 nodes"
    (first / "energy_uj").unlink()
    assert joules() is None and joules() is None
    assert "energy_joules" not in Costs("core_seconds", 1, joules=joules).after(1.0)


def test_a_machine_that_tells_no_energy_costs_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_counter(tmp_path / "none") is None
    plant(tmp_path, "intel-rapl:0", max_energy_range_uj=1)
    assert cpu_counter(tmp_path) is None, "a counter that this user may not read"
    monkeypatch.setattr(energy, "NVML", "libthere-is-none.so.1")
    assert gpu_counter("GPU-0") is None
    assert since_now(None, 1)() is None


def test_nvml_is_asked_for_the_gpu_of_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(device: object, into: ctypes.c_ulonglong) -> int:
        into._obj.value = 42_000  # type: ignore[attr-defined]
        return 0

    driver = SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetHandleByUUID=lambda uuid, device: 0 if uuid == b"GPU-1" else 6,
        nvmlDeviceGetTotalEnergyConsumption=told,
    )
    monkeypatch.setattr(energy.ctypes, "CDLL", lambda name: driver)
    counter = gpu_counter("GPU-1")
    assert counter is not None and counter() == 42.0
    assert gpu_counter("GPU-2") is None
