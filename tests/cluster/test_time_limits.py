"""What a time limit means is asked of a real sbatch."""

from __future__ import annotations

from tests.cluster.slurm import Slurm
from tests.launch.test_time_limit import MEANT

OURS = ("h", "m", "s", "d")  # Slurm has no such notation


def test_slurm_reads_its_notations_as_we_do(slurm: Slurm) -> None:
    for text, minutes in MEANT.items():
        if any(letter in text for letter in OURS):
            continue
        words = ("sbatch", "--parsable", "--hold", f"--time={text}", "--output=/dev/null", "--wrap=true")
        job = slurm.call(*words).strip()
        limit = slurm.call("squeue", "-h", "-j", job, "-O", "TimeLimit:30").strip()
        slurm.call("scancel", job)
        shown = slurm.call("sbatch", *words[1:3], f"--time={minutes}", *words[4:]).strip()
        assert limit == slurm.call("squeue", "-h", "-j", shown, "-O", "TimeLimit:30").strip(), text
        slurm.call("scancel", shown)
