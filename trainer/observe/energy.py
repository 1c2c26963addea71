"""The energy that a machine says it took: a GPU by NVML's counter, the CPUs of a host by RAPL's."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PACKAGE = re.compile(r"intel-rapl:\d+$")  # a socket; what has one more number is a part of it. AMD has the same name.
NVML = "libnvidia-ml.so.1"
Counter = Callable[[], float]  # joules, from any beginning


def since_now(counter: Counter | None, times: float) -> Callable[[], float | None]:
    """Return what says how many joules a counter has counted since this call, times what it stands for.

    It says None where there is no counter, and from the first time that one cannot be read.
    """
    start: float | None = None
    broken = counter is None

    def joules() -> float | None:
        nonlocal start, broken
        if counter is None or broken:
            return None
        try:
            now = counter()
        except OSError:
            broken = True
            return None
        start = now if start is None else start
        return (now - start) * times

    joules()
    return joules


def gpu_counter(uuid: str) -> Counter | None:
    """Return the counter of the GPU of this UUID (`GPU-...`); None without a driver, or a GPU that has none."""
    try:
        nvml = ctypes.CDLL(NVML)
    except OSError:
        return None
    device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    found = not nvml.nvmlInit_v2() and not nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device))

    def counter() -> float:
        if code := nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)):
            raise OSError(f"NVML does not tell the energy of {uuid}: code {code}")
        return millijoules.value / 1000

    return _if_readable(counter) if found else None


def cpu_counter(powercap: Path = POWERCAP) -> Counter | None:
    """Return the counter of all CPUs of this host; None where there is none, or this user may not read it.

    Linux lets only root read it by default, since it tells others too much (CVE-2020-8694).
    """
    packages = [_Package(place) for place in sorted(powercap.glob("intel-rapl:*")) if PACKAGE.match(place.name)]
    return _if_readable(lambda: sum(package.joules() for package in packages)) if packages else None


def _if_readable(counter: Counter) -> Counter | None:
    try:
        counter()
    except (OSError, ValueError):
        return None
    return counter


class _Package:
    """The counter of one socket. It begins anew after minutes at full power, and is read more often than that."""

    def __init__(self, place: Path) -> None:
        self.place, self._last, self._turns = place, 0.0, 0

    def joules(self) -> float:
        now = self._read("energy_uj")
        if now < self._last:
            self._turns += 1
        self._last = now
        return (now + self._turns * self._read("max_energy_range_uj")) / 1e6

    def _read(self, name: str) -> float:
        return float((self.place / name).read_text(encoding="ascii"))
