"""run.json: which process trains a run now, on which machine, from which code, and the run's id in W&B.

Whoever reads the status `running` asks here whether it is still true.
"""

from __future__ import annotations

import os

from trainer.contract.plain_json import DamagedFileError, read_object, to_json
from trainer.contract.provenance import provenance
from trainer.contract.run_dir import RunDir, write_atomically


def sign(run_dir: RunDir) -> None:
    """Write run.json for this process, before the status says that it runs. The W&B id of earlier attempts stays."""
    write_atomically(run_dir.run, to_json({"wandb_id": wandb_id(run_dir), **provenance()}, indent=2) + "\n")


def wandb_id(run_dir: RunDir) -> str:
    """Return the run's id in W&B, a new one where none is recorded (or none can be read any more)."""
    try:
        return str(read_object(run_dir.run, "wandb_id")["wandb_id"])
    except (FileNotFoundError, DamagedFileError):
        return os.urandom(6).hex()
