"""Which variables Slurm's programs and jobs get: those of this shell, less what belongs to a job that it may run in."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# Slurm's programs read their options from these too, before those in a script: a job submitted from inside another one
# would inherit its CPU binding, its array index, its node count. Where Slurm is stays known.
_OF_SLURM = ("SLURM", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_", "SINFO_", "SALLOC_")
_WHERE = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_CONF_SERVER"})
# Who pays and where is often set once in a profile. It holds where the cluster file leaves it open.
_PROFILE = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
}
# What Slurm, MPI and torchrun give to the processes of one job.
_OF_A_JOB = ("PMI_", "PMIX_", "PMI2_", "OMPI_", "TORCHELASTIC_", "ESCALA_ATTEMPT", "ESCALA_LOGS")
_DEVICES = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def client_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which Slurm is asked: without options that this shell sets for its programs."""
    return {k: v for k, v in environment.items() if k in _WHERE or not k.startswith(_OF_SLURM)}


def job_environment(environment: Mapping[str, str], given: Collection[str]) -> dict[str, str]:
    """Return the environment that sbatch gets. `given` are the options that the cluster file sets itself."""
    clean = client_environment(environment)
    if "SLURM_JOB_ID" in environment:
        job = _DEVICES + _RANK
        clean = {k: v for k, v in clean.items() if k not in job and not k.startswith(_OF_A_JOB)}
    profile = {k: environment[k] for k, option in _PROFILE.items() if k in environment and option not in given}
    return clean | profile


def export_option(inherit: bool, secrets: Collection[str]) -> str:
    """Return sbatch's `--export`, on the command line because SBATCH_EXPORT would win over the script."""
    return "--export=" + ("ALL" if inherit else ",".join(sorted(secrets)) or "NONE")
