"""A model spread over ranks: the mesh, and how tensors and sequences are split."""

import os

# A look at the driver instead of the runtime, so that a process may still fork after it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
