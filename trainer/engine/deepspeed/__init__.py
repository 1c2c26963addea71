"""The engine that DeepSpeed drives; nothing else imports `deepspeed`. Importing this package settles its device."""

import os

import trainer.parallel  # noqa: F401 - a look at the driver, so that a process may still fork after it

import torch  # isort: skip

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
