"""What data sheets do not say of a step's time: shares of peaks, and seconds that nothing else explains.

All of `Rates` but its last two were fitted to Narayanan et al. 2021 and half of MosaicML's published runs;
`python -m benchmarks.planner --fit` fits them again, and without `--fit` judges them on the rows that were left out.
The last two and the other constants were chosen, since the published runs say little of them. Where steps were measured
on a card, `launch/planner/measured.py` has rates of its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Shares of a GPU's data sheet unless stated otherwise."""

    ampere: float = 0.82  # peak FLOP/s that large 16-bit products reach
    hopper: float = 0.73  # the same from Hopper on, where the power limit comes first
    ampere_attention: float = 0.323  # peak FLOP/s of flash attention, both passes, the masked half not counted
    hopper_attention: float = 0.178
    edge: float = 2.4  # a product reads and writes its matrices so many times before and after its arithmetic
    contention: float = 0.55  # of a collective's time that is lost although it runs beside compute
    hop: float = 1.5e-6  # seconds of each rank in a ring over several nodes
    fp8: float = 0.835  # speed of fp8 products over twice that of 16-bit ones
    memory: float = 0.80  # of the memory's bandwidth that elementwise kernels reach
    step: float = 0.02  # seconds of a step beyond its kernels: loading, synchronising, logging


RATES = Rates()

NODE_SHARE = 0.75  # of NVLink or PCIe that large collectives reach
NETWORK_SHARE = 0.80  # of InfiniBand or RoCE that large collectives reach
LAUNCH = 60e-6  # seconds to launch the kernels of one layer's pass: small layers take no less
SERIAL_KERNEL = 6e-6  # seconds of a kernel that waits for the one before, whatever its size
LATENCY = 10e-6  # seconds for one collective inside a node, whatever its size
BUCKET = 50_000_000  # elements of one reduction or gathering, where they do not follow the layers
FLASH_BACKWARD = 2.5  # products of flash attention's backward pass over its forward: five to two (Dao 2023)
OPTIMIZER_BYTES = 30  # that Adam moves for each parameter: two moments, master copy, gradient, parameter
LOSS_BYTES, FUSED_LOSS_BYTES = 24, 8  # that the loss moves for each logit in both passes, in float32 or in one kernel
# That a cast to fp8 moves for each value: one kernel for the largest value and one that casts, or, kernel by kernel
# as in trainer/parallel/fp8.py, the absolute value, its maximum, float32, scaled, clamped, cast.
FUSED_CAST_BYTES, CAST_BYTES = 6, 33
