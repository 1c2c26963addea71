"""The control plane: many runs, as seen by a person. Imports no torch."""

import os

# The control plane multiplies small matrices: more threads only wait for each other, and for the ranks that train.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
