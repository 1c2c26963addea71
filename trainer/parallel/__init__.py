"""A model spread over ranks. Importing the package settles which accelerator DeepSpeed will find."""

import os

# A look at the driver instead of the runtime, so that a process may still fork after it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import torch

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
