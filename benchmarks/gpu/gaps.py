"""What a profile of ten steps says: how often the host waits for the device, and how long no kernel runs."""

from __future__ import annotations

from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.setting import Row, Setting
from benchmarks.gpu.throughput import LARGE, SMALL, Way, ours

STEPS = 10
# Reading a number back waits for everything before it; the CUDA calls are seen on a GPU alone.
WAITS = ("aten::_local_scalar_dense", "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def busy(events: Any) -> tuple[float, float]:
    """Return the microseconds in which a kernel runs, overlaps counted once, and those from the first to the last."""
    kernels = [e for e in events if str(e.device_type).endswith("CUDA") and not e.is_user_annotation]
    spans = sorted((e.time_range.start, e.time_range.end) for e in kernels)
    if not spans:
        return 0.0, 0.0
    total, until = 0.0, spans[0][0]
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total, until - spans[0][0]


def measure(setting: Setting) -> list[Row]:
    """Profile each engine at the shape of `throughput`."""
    shape, sequences = (SMALL, 2) if setting.tiny else (LARGE, 16)
    rows: list[Row] = []
    ways = [Way(name, compile) for name in setting.engines for compile in (False, "blocks")]
    for name, way in setting.in_time({str(way): way for way in (ways[:1] if setting.tiny else ways)}):
        step = ours(setting, shape, sequences, way)
        step(), step()
        setting.wait()
        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if setting.gpu else [])
        with profile(activities=kinds) as recorded:
            for _ in range(STEPS):
                step()
            setting.wait()
        counts = {e.key: e.count for e in recorded.key_averages()}
        working, whole = busy(recorded.events())
        waits = {kind: counts.get(kind, 0) / STEPS for kind in WAITS}
        share = None if not whole else 1 - working / whole
        rows.append(
            {"contender": name, **{f"{kind} a step": n for kind, n in waits.items()}, "share without a kernel": share}
        )
        del step, recorded
        setting.forget()
    return rows
