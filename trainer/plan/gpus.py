"""GPUs as all commands see them: memory, peak rates and links, from the vendors' data sheets.

FLOP/s are dense (without sparsity) for bf16, or fp16 where there is no bf16, with fp32 accumulation. Link rates are
bytes per second in one direction: `link_node` for one GPU to the others of its node (NVLink, else PCIe),
`link_network` for one GPU's share of the node's network, by the usual reference design.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainer.contract.errors import UserError, did_you_mean

GIB = 2**30
# What tensors cannot have: the driver's part, the CUDA context and NCCL's buffers, then the allocator's unused pieces.
RESERVED, FRAGMENTED = 2 * GIB, 0.02

SLOTS_VARIABLE = "ESCALA_SLOTS_PER_GPU"  # tells a rank how many processes share its GPU


def slot_bytes(memory: int, slots: int) -> int:
    """Return the bytes that tensors of one of `slots` processes on a GPU can have. Each has a context of its own."""
    return int(memory * (1 - FRAGMENTED)) // slots - RESERVED


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU. Memory in bytes, rates per second."""

    name: str
    capability: tuple[int, int]  # NVIDIA's compute capability: what its tensor cores can do; (0, 0) for other vendors
    memory: int
    flops: float
    bandwidth: float  # of its memory
    link_node: float
    link_network: float
    per_node: int = 8
    source: str = ""

    @property
    def usable(self) -> int:
        """Bytes that a run's tensors can have."""
        return slot_bytes(self.memory, 1)

    @property
    def power_limited(self) -> bool:
        """Whether large products meet the power limit before the peak: Hopper and its contemporaries."""
        return self.capability >= (9, 0) or self.capability == (0, 0)


def _gpu(
    name: str, capability: tuple[int, int], gib: int, tflops: float, tb: float, node: float, network: float, source: str
) -> Gpu:
    return Gpu(name, capability, gib * GIB, tflops * 1e12, tb * 1e12, node * 1e9, network * 1e9, 8, source)


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("V100-SXM-32GB", (7, 0), 32, 125, 0.9, 150, 12.5, "NVIDIA V100 data sheet, 2020; DGX-1: 4 x 100 Gb/s"),
        _gpu("A10", (8, 6), 24, 125, 0.6, 32, 6.25, "NVIDIA A10 data sheet, 2022; PCIe 4"),
        _gpu("A100-SXM-40GB", (8, 0), 40, 312, 1.555, 300, 25, "NVIDIA A100 data sheet, 2021; DGX A100: 8 x 200 Gb/s"),
        _gpu("A100-SXM-80GB", (8, 0), 80, 312, 2.039, 300, 25, "NVIDIA A100 data sheet, 2021; DGX A100: 8 x 200 Gb/s"),
        _gpu("RTX-4090", (8, 9), 24, 165.2, 1.008, 32, 3.125, "NVIDIA Ada architecture paper, 2022; PCIe 4"),
        _gpu("L40S", (8, 9), 48, 362, 0.864, 32, 12.5, "NVIDIA L40S data sheet, 2023; PCIe 4"),
        _gpu("H100-PCIe", (9, 0), 80, 756, 2.0, 64, 25, "NVIDIA H100 data sheet, 2023; PCIe 5"),
        _gpu("H100-SXM", (9, 0), 80, 989, 3.35, 450, 50, "NVIDIA H100 data sheet, 2023; DGX H100: 8 x 400 Gb/s"),
        _gpu("H200-SXM", (9, 0), 141, 989, 4.8, 450, 50, "NVIDIA H200 data sheet, 2024; DGX H200: 8 x 400 Gb/s"),
        _gpu("B200", (10, 0), 180, 2250, 7.7, 900, 50, "NVIDIA DGX B200 data sheet, 2024: 8 x 400 Gb/s"),
        _gpu("MI300X", (0, 0), 192, 1307, 5.3, 448, 50, "AMD Instinct MI300X data sheet, 2023; 7 x 64 GB/s, 400 Gb/s"),
    )
}
ALIASES = {
    "V100": "V100-SXM-32GB",
    "A100": "A100-SXM-80GB",
    "A100-40GB": "A100-SXM-40GB",
    "A100-80GB": "A100-SXM-80GB",
    "4090": "RTX-4090",
    "H100": "H100-SXM",
    "H200": "H200-SXM",
}
# Kinds of which published runs were compared with the planner's estimate, see docs/benchmarks/launching.md.
COMPARED = ("A100-SXM-40GB", "A100-SXM-80GB", "H100-SXM", "H200-SXM")
NAMES = ", ".join([*GPUS, *ALIASES])


def find_gpu(name: str) -> Gpu:
    """Return a GPU by its name or an alias, capitals, spaces and underscores as one likes. Raises UserError."""
    known = {key.lower(): gpu for key, gpu in GPUS.items()}
    known |= {alias.lower(): GPUS[key] for alias, key in ALIASES.items()}
    asked = name.lower().replace(" ", "-").replace("_", "-").removeprefix("nvidia-").removeprefix("amd-")
    if asked not in known:
        kinds = [gpu for gpu in GPUS if gpu.lower().startswith(asked)] if asked else []
        family = [key for key in (*GPUS, *ALIASES) if key.lower().split("-")[0] == asked.split("-")[0]]
        hint = f": say {' or '.join(kinds)}" if kinds else did_you_mean(name, family or [*GPUS, *ALIASES])
        raise UserError(f"unknown GPU {name!r}{hint}")
    return known[asked]


# What drivers call them, as torch.cuda.get_device_name() gives it; the first match counts.
_DRIVER_NAMES = (
    (r"V100-SXM\d-32GB", "V100-SXM-32GB"),
    (r"A100-SXM\d-40GB", "A100-SXM-40GB"),
    (r"A100-SXM\d-80GB", "A100-SXM-80GB"),
    (r"A10$", "A10"),
    (r"RTX 4090$", "RTX-4090"),
    (r"L40S", "L40S"),
    (r"H100 PCIe", "H100-PCIe"),
    (r"H100 80GB HBM3", "H100-SXM"),
    (r"H200", "H200-SXM"),
    (r"B200", "B200"),
    (r"MI300X", "MI300X"),
)


def gpu_of_driver(name: str) -> Gpu | None:
    """Return the GPU that a driver calls `name`; None for one that is not in the table."""
    return next((GPUS[kind] for pattern, kind in _DRIVER_NAMES if re.search(pattern, name)), None)
